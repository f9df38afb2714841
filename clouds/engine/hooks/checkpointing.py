"""Checkpoints during training: the newest ones, to resume from, and the best one."""

import logging
import math
import time
from collections.abc import Callable

from torch import nn

from clouds.d2 import EventStorage, HookBase
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.hooks.evaluation import Results
from clouds.engine.hooks.writing import SMOOTHED
from clouds.engine.run.metrics import is_score, is_timing
from clouds.errors import machine_error

logger = logging.getLogger(__name__)

History = dict[str, tuple[bool, list[tuple[float, int]]]]
"""Scalar name -> whether writers smooth it, and its newest (value, iteration) pairs."""


class PeriodicCheckpoint(HookBase):
    """Saves ``model_<iteration>`` by iterations and by the clock, and ``model_final`` at the end.

    The main process alone reads the clock and decides: its checkpoint has the state of the whole training, and the
    other processes have nothing to save. If a file cannot be written, it raises the error after its next iteration, and
    `clouds.engine.launch` ends the others.

    Args:
        checkpointer: writes the files.
        period: iterations between two checkpoints; 0 = only by the clock.
        minutes: age of the newest checkpoint at which the next one is saved, whatever the period; 0 = only by
            iterations.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, minutes: float = 0.0) -> None:
        self.checkpointer = checkpointer
        self.period = period
        self.minutes = minutes
        self._saved: int | None = None  # iteration of the newest checkpoint

    def before_train(self) -> None:
        self._time = time.monotonic()

    def after_step(self) -> None:
        self.checkpointer.raise_failure()
        done = self.trainer.iter + 1
        by_iteration = self.period > 0 and done % self.period == 0
        if done >= self.trainer.max_iter or by_iteration or self._is_due():
            self.save()

    def after_train(self) -> None:
        try:
            self.checkpointer.wait()
        except Exception as error:
            if self.trainer.iter >= self.trainer.max_iter:
                raise
            # The training failed before.
            logger.error(f"The last checkpoint could not be written: {machine_error(error) or error}")

    def save_now(self) -> None:
        """Save the state after the current iteration, unless it has been saved, and wait until it is on disk."""
        if self._saved != self.trainer.iter:
            self.save()
        self.checkpointer.wait()

    def save(self) -> None:
        """Begin to save the state after the current iteration (see `Checkpointer.save`)."""
        iteration = self.trainer.iter
        name = f"model_{iteration:07d}" if iteration + 1 < self.trainer.max_iter else "model_final"
        history = recent(self.trainer.storage, iteration)
        self.checkpointer.save(name, iteration=iteration, seed=self.trainer.seed, history=history)
        self._saved, self._time = iteration, time.monotonic()

    def _is_due(self) -> bool:
        if not self.checkpointer.save_to_disk or not self.minutes:
            return False
        return time.monotonic() - self._time >= 60 * self.minutes


class BestCheckpoint:
    """Keeps ``model_best``: the weights with the highest mIoU on one data set, of all evaluations of a run.

    Args:
        checkpointer: writes the file, and knows that of the run before a resume.
        data_set: name of the data set.
        evaluated: returns the model that is evaluated.
    """

    def __init__(self, checkpointer: Checkpointer, data_set: str, evaluated: Callable[[], nn.Module]) -> None:
        self.checkpointer = checkpointer
        self.data_set = data_set
        self.evaluated = evaluated
        self._best: float | None = None

    def update(self, results: Results, done: int, seed: int) -> None:
        """Save the current weights if they are better than all before; returns when they are on disk.

        A score that is not a number is never the best, and weights that were not trained yet are not saved.

        Args:
            results: scores of the current weights; empty outside the main process.
            done: number of iterations that they were trained for.
            seed: seed of the run.
        """
        scores = results.get(self.data_set)
        if not scores or not done:
            return
        score = scores["sem_seg"]["mIoU"]
        if self._best is None:
            self._best = self._best_of_run()
        if score > self._best:
            self.checkpointer.save_best(score, self.data_set, self.evaluated(), iteration=done - 1, seed=seed)
            self.checkpointer.wait()
            self._best = score
            logger.info(f"mIoU of {score:.2f} on {self.data_set}, the best so far: the weights are in model_best.pth")

    def _best_of_run(self) -> float:
        known = self.checkpointer.read_best() if self.checkpointer.resumed else {}
        # The set may have changed since.
        return float(known["score"]) if known.get("selected_on") == self.data_set else -math.inf


def recent(storage: EventStorage, iteration: int) -> History:
    """Return the losses and other scalars of an iteration, with the earlier values that writers smooth over.

    Timings are left out, and scores of an evaluation, so that the result is the same before and after it.
    """
    names = [name for name, (_, newest) in storage.latest().items() if newest == iteration and not is_score(name)]
    return {
        name: (storage.smoothing_hints()[name], storage.histories()[name].values()[-SMOOTHED:])
        for name in names
        if not is_timing(name)
    }
