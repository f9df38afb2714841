"""The loop that trains a part of the miniature Stable Diffusion, and goes on where it was interrupted."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from clouds.files import whole_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """How one network, or two that belong together, are trained.

    ``cooldown``: share of the steps, the last ones, during which the learning rate falls to 0. It is constant before;
    so a training can be told to end sooner or later while it runs.
    ``half``: compute in bfloat16 where that is safe, which some processors do several times as fast.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100
    cooldown: float = 0.3
    half: bool = False
    seed: int = 0
    save_every: int = 200

    def rate(self, step: int) -> float:
        """Factor of the learning rate."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(1.0, self.cooldown * self.steps))


def fit(
    parts: nn.Module,
    loss: Callable[[int], Tensor],
    stage: Stage,
    state_file: Path,
    name: str,
    average: AveragedModel | None = None,
    on_save: Callable[[], None] = lambda: None,
) -> float:
    """Train in place; goes on from ``state_file`` where that exists.

    What a step sees follows from its number and the seed alone, so an interrupted training ends like any other.

    Args:
        parts: what is trained.
        loss: of a step, by its number.
        stage: see `Stage`.
        state_file: written every ``stage.save_every`` steps.
        name: for the progress bar.
        average: of ``parts``, updated after each step.
        on_save: called whenever the state has been written.

    Returns:
        The seconds it took, over all starts.
    """
    optimizer = torch.optim.AdamW(parts.parameters(), lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    kept: dict[str, Any] = {"parts": parts, "optimizer": optimizer}
    if average is not None:
        kept["average"] = average
    start, seconds = _restore(state_file, kept)
    began = time.perf_counter() - seconds

    parts.train()
    bar = tqdm(range(start, stage.steps), initial=start, total=stage.steps, desc=name, unit="step")
    mean = math.nan
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * stage.rate(step)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        if average is not None:
            average.update_parameters(parts)

        mean = value.item() if math.isnan(mean) else 0.98 * mean + 0.02 * value.item()
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
            _save(state_file, kept, step + 1, time.perf_counter() - began)
            on_save()
    parts.eval()
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
