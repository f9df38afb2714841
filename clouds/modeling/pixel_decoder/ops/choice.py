"""Chooses the implementation of multi-scale deformable attention."""

import logging
import os

import torch

from clouds.modeling.pixel_decoder.ops import embedding_bag, reference
from clouds.modeling.pixel_decoder.ops.custom_op import Attention
from clouds.utils.devices import has_triton

logger = logging.getLogger(__name__)


def check_implementation(name: str, device: torch.device) -> None:
    """Check that an implementation, or "auto", can run on a device.

    Raises:
        ValueError: it cannot. The message gives the reason.
    """
    if name == "embedding_bag" and device.type != "cpu":
        raise ValueError(f"this implementation runs on a CPU only, and the device is {device}")
    if name == "triton" and not has_triton():
        raise ValueError("Triton is not installed")
    # Triton's interpreter runs on a CPU, for tests.
    if name == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"this implementation runs on CUDA only, and the device is {device}")


def find_implementation(name: str, device: str) -> Attention:
    """Return an implementation by its name; while a network is exported, the reference, which any runtime can compute.

    Args:
        name: "grid_sample", "embedding_bag" or "triton"; "auto" is the fastest for the device.
        device: type of the device.

    Raises:
        ValueError: there is no such implementation.
    """
    if torch.compiler.is_exporting():
        return reference.ms_deform_attn
    # Not `functools.cache`, because `torch.compile` ignores it.
    if (name, device) not in _FOUND:
        _FOUND[name, device] = _find(name, device)
    return _FOUND[name, device]


_FOUND: dict[tuple[str, str], Attention] = {}


def _find(name: str, device: str) -> Attention:
    if name == "auto":
        # On "meta", where nothing is computed, one operator stands for the attention.
        name = {"cpu": "embedding_bag", "meta": "embedding_bag", "cuda": "triton"}.get(device, "grid_sample")
        if name == "triton" and not has_triton():
            logger.info("Triton is not installed: the deformable attention is computed with grid_sample")
            name = "grid_sample"
    if name == "triton":
        from clouds.modeling.pixel_decoder.ops.kernel import ms_deform_attn as fused

        return fused
    implementations = {"embedding_bag": embedding_bag.ms_deform_attn, "grid_sample": reference.ms_deform_attn}
    if name not in implementations:
        raise ValueError(f"name is {name!r}; it must be auto, triton, embedding_bag or grid_sample")
    return implementations[name]
