"""Multi-scale deformable attention (Deformable DETR, eq. 3) in plain PyTorch.

Letters: B images, S source pixels of all levels, M heads, D channels of a head, Q queries, L levels, P points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def ms_deform_attn(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sample the values bilinearly, with zeros outside, and sum them over levels and points with weights.

    Args:
        value: (B, S, M, D); the levels follow each other, each in row-major order.
        shapes: L pairs (height, width); their products add up to S.
        locations: (B, Q, M, L, P, 2) as (x, y) in [0, 1] of each level; (0, 0) is the outer corner of the first pixel.
        weights: (B, Q, M, L, P), with sum 1 over L and P.

    Returns:
        (B, Q, M * D).
    """
    batch, _, heads, _ = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, BM, Q, P, 2)
    levels = value.split([h * w for h, w in shapes], dim=1)
    sampled = []
    for level, grid, (height, width) in zip(levels, grids, shapes, strict=True):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, -1, height, width)
        sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(shapes) * points)
    output = (torch.cat(sampled, dim=-1) * weights).sum(dim=-1)  # (BM, D, Q)
    return output.reshape(batch, -1, queries).transpose(1, 2)
