"""Inputs of multi-scale deformable attention, and its gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clouds.modeling.pixel_decoder.ops import Attention

Shapes = list[tuple[int, int]]


def inputs(
    shapes: Shapes, *, batch: int = 2, heads: int = 2, dim: int = 3, queries: int = 5, points: int = 2, seed: int = 0
) -> list[Tensor]:
    """Return value, locations and weights in float64; one sample in three is outside."""
    g = torch.Generator().manual_seed(seed)
    levels, pixels = len(shapes), sum(h * w for h, w in shapes)
    value = torch.randn(batch, pixels, heads, dim, generator=g, dtype=torch.float64)
    locations = torch.rand(batch, queries, heads, levels, points, 2, generator=g, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.randn(batch, queries, heads, levels * points, generator=g, dtype=torch.float64).softmax(-1)
    return [value, locations, weights.unflatten(-1, (levels, points))]


def with_gradients(attend: Attention, shapes: Shapes, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return the output, and the gradients of value, locations and weights for a fixed gradient of the output."""
    value, locations, weights = (leaf.detach().requires_grad_() for leaf in leaves)
    output = attend(value, shapes, locations, weights)
    wanted = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output).sin().to(output.dtype)
    return [output, *torch.autograd.grad(output, (value, locations, weights), wanted)]
