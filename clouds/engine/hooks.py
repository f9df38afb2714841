"""What happens around the training step: timing, schedule, evaluation, checkpoints, writers."""

import datetime
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from clouds.d2 import HookBase, comm
from clouds.engine.checkpoint import Checkpointer

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, dict[str, float]]]


class IterationTimer(HookBase):
    """Puts the seconds of every step into the storage as ``time`` (the writers make the ETA of it).

    The first ``warmup`` steps (allocation, kernel selection) stay out. Must be the first hook: the time other hooks
    take after the step is told separately at the end.
    """

    def __init__(self, warmup: int = 3) -> None:
        self.warmup = warmup
        self.steps = 0
        self.step_seconds = 0.0

    def before_train(self) -> None:
        self.train_start = time.perf_counter()

    def before_step(self) -> None:
        self.step_start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self.step_start
        self.steps += 1
        self.step_seconds += seconds
        if self.steps > self.warmup:
            self.trainer.storage.put_scalar("time", seconds)

    def after_train(self) -> None:
        if not self.steps:
            return
        total = time.perf_counter() - self.train_start
        logger.info(
            f"Trained {self.steps} iterations in {_clock(self.step_seconds)} "
            f"({self.step_seconds / self.steps:.4f} s / it); with evaluation and checkpoints {_clock(total)}"
        )


class LearningRate(HookBase):
    """Puts the step's base learning rate (the highest of the groups) into the storage, then steps the schedule."""

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler

    def after_step(self) -> None:
        lr = max(group["lr"] for group in self.scheduler.optimizer.param_groups)
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()


class PeriodicEvaluation(HookBase):
    """Evaluates before iteration 0, after every ``period`` iterations and at the end, never twice on one state.

    Period 0 leaves the evaluation at the end. A run that is resumed starts with training.

    Args:
        evaluate: returns ``{dataset: {task: {metric: value}}}``; empty outside the main process.
        writers: record each result at once; by the next regular writing a newer one may have taken its place.
    """

    def __init__(self, period: int, evaluate: Callable[[], Results], writers: Sequence[Any] = ()) -> None:
        self.period = period
        self.evaluate = evaluate
        self.writers = writers

    def before_train(self) -> None:
        if self.period > 0 and self.trainer.start_iter == 0 < self.trainer.max_iter:
            self._run()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._run()

    def after_train(self) -> None:
        # Also called when training failed; only a finished run has counted up to max_iter.
        if self.trainer.iter >= self.trainer.max_iter:
            self._run()

    def _run(self) -> None:
        for name, value in flatten(self.evaluate()).items():
            if math.isfinite(value):  # an absent class has no IoU, and NaN is no JSON
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        for writer in self.writers:
            writer.write()
        comm.synchronize()


class PeriodicCheckpoint(HookBase):
    """Saves ``model_<iteration>`` after every ``period`` iterations (0: never) and ``model_final`` at the end."""

    def __init__(self, checkpointer: Checkpointer, period: int) -> None:
        self.checkpointer = checkpointer
        self.period = period

    def after_step(self) -> None:
        iteration, done = self.trainer.iter, self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            name = "model_final"
        elif self.period > 0 and done % self.period == 0:
            name = f"model_{iteration:07d}"
        else:
            return
        self.checkpointer.save(name, iteration=iteration, seed=self.trainer.seed)


class PeriodicWriter(HookBase):
    """Lets the writers write every ``period`` iterations and at the end, then closes them. Must be the last hook."""

    def __init__(self, writers: Sequence[Any], period: int = 20) -> None:
        self.writers = writers
        self.period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period == 0 or self.trainer.iter + 1 >= self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        self._write()  # the last evaluation came after the last step
        for writer in self.writers:
            writer.close()

    def _write(self) -> None:
        for writer in self.writers:
            writer.write()


def flatten(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """``{"a": {"b": 1}}`` as ``{"a/b": 1.0}``."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": float(value)}
    return flat


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
