"""Positions of bilinear samples, as `F.interpolate` computes them with `align_corners=False`."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Samples(NamedTuple):
    """Source positions and weights of the rows or columns of a resized map.

    A row or column of the result is `(1 - weight) * source[lower] + weight * source[upper]`.

    Attributes:
        lower: (size,) int64 positions in the source.
        upper: (size,) int64 positions in the source, one further but for the border.
        weight: (size,) float32 in [0, 1).
    """

    lower: Tensor
    upper: Tensor
    weight: Tensor


def bilinear_samples(source: int, size: int, device: torch.device | None = None) -> Samples:
    """Return the samples of `source` rows or columns that are resized to `size`. Nothing is copied from the host."""
    # Product and difference are rounded separately, as in torch: otherwise, the weights differ by up to 1e-4.
    scale = float(np.float32(source) / np.float32(size))
    position = ((torch.arange(size, dtype=torch.float32, device=device) + 0.5) * scale - 0.5).clamp(min=0)
    lower = position.long().clamp(max=source - 1)
    return Samples(lower, (lower + 1).clamp(max=source - 1), position - lower)
