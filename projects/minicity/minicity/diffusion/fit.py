"""How a part of the miniature Stable Diffusion is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from minicity.resumable import settings_of, train_resumably


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
    num_pictures: int,
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
        name: of the training, for the progress bar.
        num_pictures: how many there are to be shown.
        average: of ``parts``, updated after each step.
        on_save: called whenever the state has been written.

    Returns:
        The seconds it took, over all starts.

    Raises:
        UserError: the state is that of another training, or a loss is not finite.
    """
    optimizer = torch.optim.AdamW(parts.parameters(), lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    kept: dict[str, Any] = {"parts": parts, "optimizer": optimizer}
    if average is not None:
        kept["average"] = average

    def update(step: int) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * stage.rate(step)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        if average is not None:
            average.update_parameters(parts)
        return value

    parts.train()
    seconds = train_resumably(
        kept,
        update,
        steps=stage.steps,
        save_every=stage.save_every,
        state_file=state_file,
        # The rate is constant until the cooldown, so more or fewer steps are the same training until then.
        settings=settings_of(stage, "steps", pictures=num_pictures),
        name=name,
        on_save=on_save,
    )
    parts.eval()
    return seconds
