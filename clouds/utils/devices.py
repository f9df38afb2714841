"""Devices of torch, and the switches of their libraries."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def has_triton() -> bool:
    """Return whether Triton, which compiles the kernels for CUDA, is installed."""
    return importlib.util.find_spec("triton") is not None


def is_usable(device: torch.device) -> bool:
    """Return whether this machine has a device, and its tensors have values (those on `meta` have none)."""
    if device.type == "cpu":
        return True
    if device.type not in ("cuda", "mps", "xpu"):
        return False
    module = torch.get_device_module(device.type)
    return module.is_available() and (device.index or 0) < module.device_count()


def release_cache(device: torch.device) -> None:
    """Return the memory that torch keeps for later tensors to the device; nothing on a CPU."""
    if device.type != "cpu" and is_usable(device):
        torch.get_device_module(device.type).empty_cache()


def set_float32_precision(precision: str, device: torch.device) -> str:
    """Set the precision of products and convolutions of float32 numbers in this process.

    Args:
        precision: "highest": float32; "high": TF32, with 10 bits of mantissa, on a GPU; "medium": bfloat16 products;
            "": high on CUDA, otherwise highest.
        device: device of the network.

    Returns:
        The precision that was set, which `torch.get_float32_matmul_precision()` returns from here on.
    """
    precision = precision or ("high" if device.type == "cuda" else "highest")
    torch.set_float32_matmul_precision(precision)
    # By default, torch uses TF32 in cuDNN alone.
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    return precision


@contextmanager
def float32_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Set the precision of float32 products and convolutions in this context, see `set_float32_precision`."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_float32_precision(precision, device)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def cudnn_benchmark(enabled: bool) -> Iterator[None]:
    """Switch on or off, in this context, that cuDNN measures its algorithms for each new size and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def use_deterministic_algorithms() -> None:
    """Choose deterministic algorithms in this process, before its first computation on a GPU.

    torch warns about an operation that has none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)
