"""Checkpoints during training."""

from clouds.d2 import EventStorage, HookBase
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.hooks.writing import SMOOTHED

History = dict[str, tuple[bool, list[tuple[float, int]]]]
"""Scalar name -> whether writers smooth it, and its newest (value, iteration) pairs."""


class PeriodicCheckpoint(HookBase):
    """Saves ``model_<iteration>`` after every `period` iterations (0: never) and ``model_final`` at the end."""

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
        history = recent(self.trainer.storage, iteration)
        self.checkpointer.save(name, iteration=iteration, seed=self.trainer.seed, history=history)


def recent(storage: EventStorage, iteration: int) -> History:
    """Return the scalars of an iteration with the earlier values that writers smooth over, without timings."""
    names = [name for name, (_, newest) in storage.latest().items() if newest == iteration]
    return {
        name: (storage.smoothing_hints()[name], storage.histories()[name].values()[-SMOOTHED:])
        for name in names
        if not name.endswith(("time", "_seconds"))
    }
