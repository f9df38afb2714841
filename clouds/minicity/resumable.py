"""The loop of every training of a miniature: it shows its progress, keeps its state, goes on where it was stopped."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from clouds.files import whole_file

logger = logging.getLogger(__name__)


def train_resumably(
    kept: dict[str, Any],
    update: Callable[[int], Tensor],
    *,
    steps: int,
    save_every: int,
    state_file: Path,
    name: str,
    on_save: Callable[[], None] = lambda: None,
) -> float:
    """Make all steps that have not been made yet.

    Args:
        kept: what has a ``state_dict`` and changes during the training, by name.
        update: makes the step of that number and returns its loss, a scalar. What it sees must follow from the number
            alone; then an interrupted training ends like any other.
        steps: of the whole training.
        save_every: steps between two states; there is one after the last step.
        state_file: the state; gone on from where it exists.
        name: for the progress bar.
        on_save: called whenever the state has been written.

    Returns:
        The seconds it took, over all starts.
    """
    start, seconds = _restore(state_file, kept)
    began = time.perf_counter() - seconds
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, unit="step")
    mean = math.nan
    for step in bar:
        loss = update(step).item()
        mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(state_file, kept, step + 1, time.perf_counter() - began)
            on_save()
    return time.perf_counter() - began


def _save(file: Path, kept: dict[str, Any], step: int, seconds: float) -> None:
    state = {name: part.state_dict() for name, part in kept.items()}
    with whole_file(file) as part_file:
        torch.save({**state, "step": step, "seconds": seconds}, part_file)


def _restore(file: Path, kept: dict[str, Any]) -> tuple[int, float]:
    """The steps done and the seconds they took."""
    if not file.is_file():
        return 0, 0.0
    state = torch.load(file, map_location="cpu", weights_only=True)
    for name, part in kept.items():
        part.load_state_dict(state[name])
    logger.info("Going on at step %d of %s", state["step"], file.name)
    return int(state["step"]), float(state["seconds"])
