"""A training step: forward pass, losses, backward pass, clipping, AdamW."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from rows import NETWORKS, OURS, Sizes
from rows.networks import batch_of, network


def build(side: str, sizes: Sizes) -> Callable[[], Any]:
    """Return a step, which returns its losses. Each repetition draws equal points on all sides."""
    net, batch = network(side, miniature=sizes["miniature"]), batch_of(sizes)
    numbers = iter(range(1000))

    def step() -> list[float]:
        torch.manual_seed(next(numbers))
        return net.step(batch)

    return step


SIDES = {side: partial(build, side) for side in NETWORKS}


def check(results: Mapping[str, Any]) -> str:
    """Compare the losses of the first step."""
    worst = max(np.abs(np.divide(result, results[OURS]) - 1).max() for result in results.values())
    assert worst < 1e-3, f"the losses differ by {worst:.1e}"
    return f"all losses of the first step agree within {worst:.0e} (limit 1e-3)"
