"""Timing of the training steps."""

import datetime
import logging
import time

from clouds.d2 import HookBase

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Puts the seconds of every step into the storage as ``time``, from which the writers estimate the remaining time.

    It must be the first hook: the time that other hooks take after a step is reported separately, at the end.

    Args:
        warmup: number of first steps, which allocate memory and select kernels, that are not recorded.
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


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
