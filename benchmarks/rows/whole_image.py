"""A test image, from its uint8 pixels to its label map."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from scenes import image, label_map

from rows import NETWORKS, OURS, Sizes
from rows.networks import network


def build(side: str, sizes: Sizes) -> Callable[[], Any]:
    """Return the prediction of a synthetic scene."""
    net = network(side, miniature=sizes["miniature"])
    pixels = image(label_map((sizes["height"], sizes["width"]), 0), 0)
    return partial(net.labels, torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


SIDES = {side: partial(build, side) for side in NETWORKS}


def check(results: Mapping[str, Any]) -> str:
    """Compare the label maps; a network with random weights is undecided at some pixels."""
    shared = min(float((result == results[OURS]).mean()) for result in results.values())
    assert shared > 0.999, f"only {shared:.2%} of the labels agree"
    return f"{shared:.3%} of the labels agree (limit 99.9 %)"
