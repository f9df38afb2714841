"""Evaluation during training."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from clouds.d2 import HookBase, comm
from clouds.engine.run.metrics import flatten

Results = dict[str, dict[str, dict[str, float]]]
"""``{dataset: {task: {metric: value}}}``."""


class PeriodicEvaluation(HookBase):
    """Evaluates before iteration 0, after every `period` iterations and at the end, never twice on one state.

    With period 0 it evaluates at the end only. A resumed run begins with training; one that has finished evaluates
    again, and records the results unless they are on record.

    Args:
        period: iterations between two evaluations; 0 = only at the end.
        evaluate: returns the results, empty outside the main process.
        writers: write the results at once, since later results replace them in the storage.
        keep_best: called with the results, the number of iterations before them, and the seed; None for nothing.

    Attributes:
        recorded: number of iterations after which the results are on record; set by `Continuation`, otherwise None.
    """

    recorded: int | None = None

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], Results],
        writers: Sequence[Any] = (),
        keep_best: Callable[[Results, int, int], None] | None = None,
    ) -> None:
        self.period = period
        self.evaluate = evaluate
        self.writers = writers
        self.keep_best = keep_best

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 and self.due(0):
            self.run(0)

    def after_step(self) -> None:
        if self.due(self.trainer.iter + 1):
            self.run(self.trainer.iter + 1)

    def after_train(self) -> None:
        # Also called when training failed; only a finished run has counted up to max_iter.
        if self.trainer.iter < self.trainer.max_iter:
            return
        if self.recorded == self.trainer.iter:
            self.evaluate()
            self.trainer.storage.clear_images()  # they are on record, too
        else:
            self.run(self.trainer.iter)

    def due(self, done: int) -> bool:
        """Return whether an evaluation follows the first `done` iterations, apart from the one at the end."""
        return self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter

    def run(self, done: int) -> None:
        """Evaluate the state after the first `done` iterations and record the results."""
        results = self.evaluate()
        # Before the results are on record: a run that is killed in between evaluates again.
        if self.keep_best is not None:
            self.keep_best(results, done, self.trainer.seed)
        for name, value in flatten(results).items():
            if math.isfinite(value):  # a class that does not occur has no IoU, and JSON has no NaN
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        for writer in self.writers:
            writer.write()
        self.trainer.storage.clear_images()  # a TensorBoard file that cannot be written would let them accumulate
        comm.synchronize()
