"""The loop of every training of a miniature: it shows its progress, keeps its state, goes on where it was stopped."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from clouds.errors import UserError
from clouds.utils.atomic import atomic_file

logger = logging.getLogger(__name__)


def settings_of(recipe: Any, *free: str, **shown: int) -> dict[str, Any]:
    """What tells one training from another, for `train_resumably`.

    Args:
        recipe: a dataclass.
        free: its fields that may be others when a training goes on, besides ``save_every``.
        shown: numbers of what is shown.
    """
    fields = dataclasses.asdict(recipe) | shown
    return {key: value for key, value in fields.items() if key not in ("save_every", *free)}


def train_resumably(
    kept: dict[str, Any],
    update: Callable[[int], Tensor],
    *,
    steps: int,
    save_every: int,
    state_file: Path,
    settings: Mapping[str, Any],
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
        settings: plain values that the training follows from; a state with others is not gone on from.
        name: of the training, for the progress bar.
        on_save: called whenever the state has been written.

    Returns:
        The seconds it took, over all starts.

    Raises:
        UserError: the state is that of another training, or a loss is not finite.
    """
    start, seconds = _restore(state_file, kept, steps, settings)
    began = time.perf_counter() - seconds
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, unit="step")
    mean = math.nan
    for step in bar:
        loss = update(step).item()
        if not math.isfinite(loss):
            bar.close()
            good = f"the last good state is kept in {state_file}" if state_file.is_file() else "there is no state yet"
            raise UserError(
                f"{name}: the loss of step {step} is {loss}, and {good}; start again, and if it ends here again, lower "
                "the learning rate."
            )
        mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(state_file, kept, step + 1, time.perf_counter() - began, settings)
            on_save()
    return time.perf_counter() - began


def _save(file: Path, kept: dict[str, Any], step: int, seconds: float, settings: Mapping[str, Any]) -> None:
    state = {name: part.state_dict() for name, part in kept.items()}
    with atomic_file(file) as part_file:
        torch.save({**state, "step": step, "seconds": seconds, "settings": dict(settings)}, part_file)


def _restore(file: Path, kept: dict[str, Any], steps: int, settings: Mapping[str, Any]) -> tuple[int, float]:
    """The steps done and the seconds they took."""
    if not file.is_file():
        return 0, 0.0
    state = torch.load(file, map_location="cpu", weights_only=True)
    if "settings" not in state:
        raise _another(file, "it does not tell its settings")
    before = state["settings"]
    for key in {**settings, **before}:
        if before.get(key) != settings.get(key):
            raise _another(file, f"{key} {before.get(key)} instead of {settings.get(key)}")
    if state["step"] > steps:
        raise _another(file, f"{state['step']} steps done instead of {steps}")
    try:
        for name, part in kept.items():
            part.load_state_dict(state[name])
    except RuntimeError as error:
        raise _another(file, "its network has other parts or sizes") from error
    logger.info("Going on at step %d of %s", state["step"], file.name)
    return int(state["step"]), float(state["seconds"])


def _another(file: Path, difference: str) -> UserError:
    return UserError(f"{file} is the state of another training ({difference}): delete it or choose another --cache.")
