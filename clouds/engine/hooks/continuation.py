"""Repair of the training record after a resume."""

import logging
import os
from pathlib import Path

from clouds.d2 import HookBase, comm
from clouds.engine.hooks.evaluation import PeriodicEvaluation
from clouds.engine.hooks.writing import PeriodicWriter
from clouds.utils.jsonl import scan_lines

logger = logging.getLogger(__name__)


class Continuation(HookBase):
    """Repairs ``metrics.json`` after a resume, as if the run had never stopped. It must precede the evaluation hook.

    Rows that the interrupted run wrote after its last checkpoint are removed, the values that writers smooth over are
    restored, and an evaluation or a row that was due right after that checkpoint and was lost is repeated.

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
            if lost:  # writers write what was put, not what is in the histories
                storage.put_scalar(name, values[-1][0], smoothing_hint=smoothed)
        if lost and evaluate:
            logger.info(f"The evaluation after iteration {start - 1} is not in metrics.json: evaluating again")
            self.evaluation.run()
        elif lost:
            self.writer.write()
        storage.iter = start


def cut_record(path: Path, start: int) -> bool:
    """Remove the rows of iteration `start` and later, and an incomplete last line, from a ``metrics.json``.

    The file is shortened in one step and in place, since a writer may have it open. Only rows of the last training in
    the file are considered. With `start` 0, a new training follows and no row is removed.

    Returns:
        Whether the file has the row of iteration ``start - 1``.
    """
    rows: list[tuple[int, int]] = []  # of the last training: iteration, offset of the line
    end = 0
    for line in scan_lines(path):
        if not line.is_complete:
            break
        end = line.end
        if line.row is None or not isinstance(line.row.get("iteration"), int):
            continue  # not a row of a training
        # A row without a loss is an evaluation before the first or after the last step, of the state before it.
        iteration = line.row["iteration"] - ("total_loss" not in line.row)
        if rows and iteration < rows[-1][0]:
            rows.clear()
        rows.append((iteration, line.start))
    late = [offset for iteration, offset in rows if iteration >= start > 0]
    os.truncate(path, min([end, *late]))
    return any(iteration == start - 1 for iteration, _ in rows)
