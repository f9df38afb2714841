"""Writers during training: console, ``metrics.json``, TensorBoard, W&B."""

from collections.abc import Sequence
from typing import Any

from clouds.d2 import HookBase

SMOOTHED = 20  # iterations over which writers take the median


class PeriodicWriter(HookBase):
    """Calls the writers every `period` iterations and at the end, then closes them. It must be the last hook.

    A training that fails is not written down further: its record ends like that of a killed one.
    """

    def __init__(self, writers: Sequence[Any], period: int = SMOOTHED) -> None:
        self.writers = writers
        self.period = period

    def after_step(self) -> None:
        if self.due(self.trainer.iter + 1):
            self.write()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self.write()  # the last evaluation came after the last step
        for writer in self.writers:
            writer.close()

    def due(self, done: int) -> bool:
        """Return whether the writers write after the first `done` iterations."""
        return done % self.period == 0 or done >= self.trainer.max_iter

    def write(self) -> None:
        """Call all writers."""
        for writer in self.writers:
            writer.write()
