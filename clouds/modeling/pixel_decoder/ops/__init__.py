"""Multi-scale deformable attention: one signature, that of the reference, and several implementations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clouds.modeling.pixel_decoder.ops import embedding_bag, reference
from clouds.modeling.pixel_decoder.ops.custom_op import Attention

__all__ = ["IMPLEMENTATIONS", "check_implementation", "ms_deform_attn"]


def ms_deform_attn(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Choose the fastest implementation for the device of `value`; arguments and result are those of the reference."""
    fastest = embedding_bag.ms_deform_attn if value.device.type == "cpu" else reference.ms_deform_attn
    return fastest(value, shapes, locations, weights)


IMPLEMENTATIONS: dict[str, Attention] = {
    "auto": ms_deform_attn,
    "embedding_bag": embedding_bag.ms_deform_attn,
    "grid_sample": reference.ms_deform_attn,
}


def check_implementation(name: str, device: torch.device) -> None:
    """Check that an implementation can run on a device.

    Raises:
        ValueError: it cannot. The message gives the reason.
    """
    if name == "embedding_bag" and device.type != "cpu":
        raise ValueError(f"this implementation runs on a CPU only, and the device is {device}")
