"""What happens around the training step: timing, schedule, evaluation, checkpoints, writers."""

import datetime
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from clouds.d2 import EventStorage, HookBase, comm
from clouds.engine.checkpoint import Checkpointer
from clouds.utils.jsonl import scan_lines

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, dict[str, float]]]
# Scalar -> whether writers smooth it, and its newest (value, iteration).
History = dict[str, tuple[bool, list[tuple[float, int]]]]

SMOOTHED = 20  # iterations over which writers take the median


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
        if self.trainer.start_iter == 0 and self.due(0):
            self.run()

    def after_step(self) -> None:
        if self.due(self.trainer.iter + 1):
            self.run()

    def after_train(self) -> None:
        # Also called when training failed; only a finished run has counted up to max_iter.
        if self.trainer.iter >= self.trainer.max_iter:
            self.run()

    def due(self, done: int) -> bool:
        """Whether an evaluation follows the first ``done`` iterations; the one at the end is another matter."""
        return self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter

    def run(self) -> None:
        """Evaluate and record the result."""
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
        history = recent(self.trainer.storage, iteration)
        self.checkpointer.save(name, iteration=iteration, seed=self.trainer.seed, history=history)


class PeriodicWriter(HookBase):
    """Lets the writers write every ``period`` iterations and at the end, then closes them. Must be the last hook."""

    def __init__(self, writers: Sequence[Any], period: int = SMOOTHED) -> None:
        self.writers = writers
        self.period = period

    def after_step(self) -> None:
        if self.due(self.trainer.iter + 1):
            self.write()

    def after_train(self) -> None:
        self.write()  # the last evaluation came after the last step
        for writer in self.writers:
            writer.close()

    def due(self, done: int) -> bool:
        """Whether the writers write after the first ``done`` iterations."""
        return done % self.period == 0 or done >= self.trainer.max_iter

    def write(self) -> None:
        """Let all writers write."""
        for writer in self.writers:
            writer.write()


class Continuation(HookBase):
    """Makes the record of a resumed run that of a run which was never interrupted. Stands before the evaluation.

    Rows that the killed run wrote past its last checkpoint leave ``metrics.json``; the values that the writers smooth
    over come back; and an evaluation or a row that was due right after that checkpoint and got lost is made up for.

    Args:
        metrics: path of ``metrics.json``; None outside the main process.
        evaluation: the hook that evaluates.
        writer: the hook that writes.
    """

    def __init__(self, metrics: Path | None, evaluation: PeriodicEvaluation, writer: PeriodicWriter) -> None:
        self.metrics = metrics
        self.evaluation = evaluation
        self.writer = writer

    def before_train(self) -> None:
        start, storage, history = self.trainer.start_iter, self.trainer.storage, self.trainer.history
        written = self.metrics is None or not self.metrics.is_file() or cut_record(self.metrics, start)
        if start == 0:
            return
        evaluate, write = self.evaluation.due(start), self.writer.due(start)
        lost = not all(comm.all_gather(written)) and (evaluate or write)
        storage.iter = start - 1
        for name, (smoothed, values) in history.items():
            for value, iteration in values[:-1] if lost else values:
                storage.histories()[name].update(value, iteration)
            if lost:  # what is put will be written, what is in the histories alone will not
                storage.put_scalar(name, values[-1][0], smoothing_hint=smoothed)
        if lost and evaluate:
            logger.info(f"The evaluation after iteration {start - 1} is not on record: it is done now")
            self.evaluation.run()
        elif lost:
            self.writer.write()
        storage.iter = start


def recent(storage: EventStorage, iteration: int) -> History:
    """What this iteration put, with the values before it that smoothing takes in; clocks are left out."""
    names = [name for name, (_, newest) in storage.latest().items() if newest == iteration]
    return {
        name: (storage.smoothing_hints()[name], storage.histories()[name].values()[-SMOOTHED:])
        for name in names
        if not name.endswith(("time", "_seconds"))
    }


def cut_record(path: Path, start: int) -> bool:
    """Take the rows of iteration ``start`` and later, and half a line, off the end of a ``metrics.json``.

    The file is shortened in one step and in place, where a writer may have it open. Only rows of the last training in
    the file are looked at, and with ``start`` 0 (another one is to follow) none of them goes.

    Returns:
        Whether the row of iteration ``start - 1`` is there.
    """
    rows: list[tuple[int, int]] = []  # of the last training: iteration, where the line begins
    end = 0
    for line in scan_lines(path):
        if not line.is_complete:
            break
        end = line.end
        if line.row is None or not isinstance(line.row.get("iteration"), int):
            continue  # not a row of a training
        # Without a loss it is an evaluation before the first or after the last step, of the state left before.
        iteration = line.row["iteration"] - ("total_loss" not in line.row)
        if rows and iteration < rows[-1][0]:
            rows.clear()
        rows.append((iteration, line.start))
    late = [offset for iteration, offset in rows if iteration >= start > 0]
    os.truncate(path, min([end, *late]))
    return any(iteration == start - 1 for iteration, _ in rows)


def flatten(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """``{"a": {"b": 1}}`` as ``{"a/b": 1.0}``."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": float(value)}
    return flat


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
