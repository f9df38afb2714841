"""Tensors as weights: which ones cannot be, and a digest of their values."""

import hashlib
import math
import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

StateDict = dict[str, Tensor]
"""Tensors of a module by their names."""

_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Number types that a weight or a counter in a file can have."""


def find_unusable(tensors: Mapping[Any, Any]) -> str:
    """Find a tensor that no network can have as a weight.

    Args:
        tensors: content of a state dict.

    Returns:
        The name of the first such tensor and the reason, as in "'head.weight' is not finite"; "" if there is none.
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            return f"{reprlib.repr(name)} is not the name of a tensor"
        if reason := unusable(tensor):
            return f"'{name}' is {reason}"
    return ""


def unusable(tensor: Tensor) -> str:
    """Return why a tensor cannot be a weight: "not finite", "sparse", "complex64" and so on; "" if it can."""
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        kinds = {"without values": tensor.is_meta, "quantized": tensor.is_quantized}
        return next((kind for kind, holds in kinds.items() if holds), "sparse")
    if tensor.dtype not in _DTYPES:
        return f"of the type {tensor.dtype}"
    if tensor.is_floating_point() and tensor.numel():
        # One pass without a temporary tensor: both ends are NaN if any value is.
        low, high = torch.aminmax(tensor.detach())
        if not (math.isfinite(low) and math.isfinite(high)):
            return "not finite"
    return ""


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 digest of names, shapes and all values in float32, 64 hexadecimal digits; "" for no tensors.

    The digest depends neither on the device nor on the number type in which the values are stored.
    """
    if not tensors:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().flatten().numpy().data)
    return digest.hexdigest()


def exact_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 digest of sorted names, number types, shapes and all bytes, 64 hexadecimal digits.

    It is equal for equal tensors only, to the last bit, and does not depend on the device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
