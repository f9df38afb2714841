"""FLOPs against layers that are counted by hand: a multiplication and an addition are two."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clouds.engine.analysis.flops import count_flops
from clouds.modeling.pixel_decoder.ops import embedding_bag


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers(device: str) -> None:
    with torch.device(device):
        linear, conv = nn.Linear(16, 8), nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        depthwise = nn.Conv2d(6, 6, 7, padding=3, groups=6)
        rows, image, channels = torch.ones(5, 16), torch.ones(2, 3, 10, 12), torch.ones(1, 6, 4, 5)
        queries = torch.ones(2, 4, 7, 8)
    counted = {
        "linear": count_flops(partial(linear, rows))[0],
        "conv": count_flops(partial(conv, image))[0],
        "depthwise": count_flops(partial(depthwise, channels))[0],
        "attention": count_flops(partial(F.scaled_dot_product_attention, queries, queries, queries))[0],
    }
    assert counted == {
        "linear": 2 * 5 * 16 * 8,
        "conv": 2 * (2 * 5 * 6) * 8 * (3 * 3 * 3),
        "depthwise": 2 * (4 * 5) * 6 * (7 * 7),
        "attention": 2 * 2 * (2 * 4) * 7 * 7 * 8,  # queries and keys, and weights and values
    }


def test_a_backward_pass() -> None:
    layer, rows = nn.Linear(16, 8, device="meta"), torch.ones(5, 16, device="meta")
    output = layer(rows)
    flops, _ = count_flops(output.sum().backward)
    assert flops == 2 * 5 * 16 * 8  # of the weights alone, since the input takes no gradient
    output = layer(rows.requires_grad_())
    flops, _ = count_flops(output.sum().backward)
    assert flops == 2 * (2 * 5 * 16 * 8)


def test_the_gradients_of_a_depthwise_convolution() -> None:
    layer = nn.Conv2d(6, 6, 7, padding=3, groups=6, device="meta")
    images = torch.ones(1, 6, 4, 5, device="meta", requires_grad=True)
    output = layer(images)
    assert count_flops(output.sum().backward)[0] == 2 * (2 * (4 * 5) * 6 * (7 * 7))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_deformable_attention_and_samples(device: str) -> None:
    """A sample takes four products and sums of corners, and in the attention one more with its weight."""
    batch, heads, channels, queries, points = 2, 4, 8, 6, 3
    shapes = ((4, 5), (2, 3))
    with torch.device(device):
        value = torch.rand(batch, sum(h * w for h, w in shapes), heads, channels, requires_grad=True)
        locations = torch.rand(batch, queries, heads, len(shapes), points, 2)
        weights = torch.rand(batch, queries, heads, len(shapes), points)
        image, grid = torch.rand(2, 3, 6, 7), torch.rand(2, 4, 5, 2)
    samples = batch * queries * heads * len(shapes) * points
    flops, output = count_flops(partial(embedding_bag.ms_deform_attn, value, shapes, locations, weights))
    assert flops == samples * channels * 2 * (4 + 1)
    backward, _ = count_flops(output.sum().backward)
    assert backward == 2 * flops
    flops, _ = count_flops(partial(F.grid_sample, image, grid, align_corners=False))
    assert flops == 2 * 3 * 4 * 5 * 2 * 4
