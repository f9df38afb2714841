"""The pixel decoder without gradient, as in evaluation and for the teacher."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rows import NETWORKS, OURS, Sizes
from rows.networks import network


def build(side: str, sizes: Sizes) -> Callable[[], Any]:
    """Return a forward pass for random images; the backbone's maps are made before."""
    net, shape = network(side, miniature=sizes["miniature"]), (sizes["batch"], 3, sizes["side"], sizes["side"])
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    features = {name: maps.clone() for name, maps in net.features(pixels).items()}

    @torch.no_grad()
    def forward() -> list[Tensor]:
        return net.pixel_decoder(features)

    return forward


SIDES = {side: partial(build, side) for side in NETWORKS}


def check(results: Mapping[str, Any]) -> str:
    """Compare mask features and coarse maps."""
    worst = 0.0
    for result in results.values():
        for theirs, ours in zip(result, results[OURS], strict=True):
            worst = max(worst, float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours)))
    assert worst < 1e-4, f"the maps differ by {worst:.1e}"
    return f"all maps agree within {worst:.0e} (limit 1e-4)"
