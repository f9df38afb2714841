"""Training loop of the miniatures: shows progress, saves its state and resumes from it."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from clouds.engine.checkpointing.states import fitted_state
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file
from clouds.utils.torch_files import read_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings that every training has. Each miniature adds its own.

    Attributes:
        steps: number of updates.
        learning_rate: highest learning rate.
        warmup: number of steps over which the learning rate rises linearly.
        seed: seed of everything that is drawn at random.
        save_every: number of steps between two saved states. The last step is always saved.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    seed: int = 0
    save_every: int = 100

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("save_every",)
    """Fields that may differ between a saved state and the training that resumes from it."""

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate at a step: a linear rise times half a cosine down to 0."""
        return min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def identity(self) -> dict[str, Any]:
        """Return the fields that a saved state must agree with."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in self.CHANGEABLE}


def fit(
    modules: nn.Module,
    loss: Callable[[int], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    settings: TrainingSettings,
    *,
    state_file: Path,
    name: str,
    data: Mapping[str, int],
    average: AveragedModel | None = None,
    after_update: Callable[[], None] = lambda: None,
    on_save: Callable[[], None] = lambda: None,
) -> float:
    """Train modules in place with clipped gradients. Resumes from `state_file` if it exists.

    Args:
        modules: trained modules, on the device to train on. They are left in eval mode.
        loss: returns the loss of a step, a scalar, from the step's number. If it depends on nothing else, an
            interrupted training ends bit for bit like one that was not.
        optimizers: optimizers of the modules' parameters. `settings.rate` scales their learning rates.
        settings: settings of the training.
        state_file: file of the saved state.
        name: title of the progress bar.
        data: sizes of the training data, by name. A saved state must agree with them.
        average: moving average of `modules`, updated after every step.
        after_update: called after every step.
        on_save: called after every saved state.

    Returns:
        Training time in seconds, interrupted runs included.

    Raises:
        UserError: the state belongs to another training, or a loss is not finite.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    stateful: dict[str, Any] = {"modules": modules}
    stateful |= {f"optimizer_{number}": optimizer for number, optimizer in enumerate(optimizers)}
    if average is not None:
        stateful["average"] = average

    def update(step: int) -> Tensor:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * settings.rate(step)
        value = loss(step)
        modules.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if average is not None:
            average.update_parameters(modules)
        after_update()
        return value

    modules.train()
    seconds = train_resumably(
        stateful,
        update,
        steps=settings.steps,
        save_every=settings.save_every,
        state_file=state_file,
        identity={**settings.identity(), **data},
        name=name,
        on_save=on_save,
    )
    modules.eval()
    return seconds


def train_resumably(
    stateful: Mapping[str, Any],
    update: Callable[[int], Tensor],
    *,
    steps: int,
    save_every: int,
    state_file: Path,
    identity: Mapping[str, Any],
    name: str,
    on_save: Callable[[], None] = lambda: None,
) -> float:
    """Run the steps that have not been run yet.

    Args:
        stateful: objects with `state_dict` and `load_state_dict` that change during the training, by name.
        update: runs the step with this number and returns its loss, a scalar.
        steps: number of steps of the whole training.
        save_every: number of steps between two saved states. The last step is always saved.
        state_file: file of the saved state; the training resumes from it if it exists.
        identity: plain values that identify the training. A state with other values is refused.
        name: title of the progress bar.
        on_save: called after every saved state.

    Returns:
        Training time in seconds, interrupted runs included.

    Raises:
        UserError: the state belongs to another training, or a loss is not finite.
    """
    start, seconds = _restore(state_file, stateful, steps, identity)
    began = time.perf_counter() - seconds
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, unit="step")
    mean = math.nan
    for step in bar:
        loss = update(step).item()
        if not math.isfinite(loss):
            bar.close()
            good = f"{state_file} holds the last good state" if state_file.is_file() else "no state has been saved"
            raise UserError(
                f"{name}: the loss of step {step} is {loss}; {good}. Run the command again, and if it fails at the "
                "same step, lower the learning rate."
            )
        mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(state_file, stateful, step + 1, time.perf_counter() - began, identity)
            on_save()
    return time.perf_counter() - began


def _save(file: Path, stateful: Mapping[str, Any], step: int, seconds: float, identity: Mapping[str, Any]) -> None:
    state = {name: part.state_dict() for name, part in stateful.items()}
    with atomic_file(file) as stream:
        torch.save({**state, "step": step, "seconds": seconds, "identity": dict(identity)}, stream)


def _restore(file: Path, stateful: Mapping[str, Any], steps: int, identity: Mapping[str, Any]) -> tuple[int, float]:
    """Load a saved state into the objects; return the number of steps done and the seconds that they took."""
    if not file.is_file():
        return 0, 0.0
    try:
        state = read_tensors(file)
    except ValueError as error:
        raise _mismatch(file, f"it is damaged ({error})") from error
    if not isinstance(state, dict) or not {"step", "seconds", *stateful} <= state.keys():
        raise _mismatch(file, "it is not the state of a training")
    before = state.get("identity")
    if before is None:
        raise _mismatch(file, "it does not hold its settings")
    for key in {**identity, **before}:
        if before.get(key) != identity.get(key):
            raise _mismatch(file, f"{key} is {before.get(key)} instead of {identity.get(key)}")
    if state["step"] > steps:
        raise _mismatch(file, f"it has done {state['step']} steps, not {steps}")
    try:
        states = {name: fitted_state(part, state[name], name) for name, part in stateful.items()}
    except ValueError as error:
        raise _mismatch(file, f"its network differs: {error}") from error
    for name, part in stateful.items():
        part.load_state_dict(states[name])
    logger.info("Resuming at step %d from %s", state["step"], file.name)
    return int(state["step"]), float(state["seconds"])


def _mismatch(file: Path, difference: str) -> UserError:
    return UserError(f"{file} is the state of another training ({difference}): delete it or choose another --cache.")
