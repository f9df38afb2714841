"""Repair of the training record after a resume."""

import logging
from collections.abc import Sequence
from pathlib import Path

from clouds.d2 import HookBase, comm
from clouds.engine.hooks.evaluation import PeriodicEvaluation
from clouds.engine.hooks.writing import PeriodicWriter
from clouds.engine.run.metrics import Recorded, repair

logger = logging.getLogger(__name__)


class Continuation(HookBase):
    """Repairs ``metrics.json`` after a resume, as if the run had never stopped. It must precede the evaluation hook.

    Rows that the interrupted run wrote after its last checkpoint are removed, the values that writers smooth over are
    restored, and an evaluation or a row that was due right after that checkpoint and was lost is repeated. The rows at
    the end of a shorter training that is continued stay.

    Args:
        metrics: path of ``metrics.json``; None outside the main process.
        test_sets: names of the sets that an evaluation scores.
        evaluation: the hook that evaluates.
        writer: the hook that writes.
    """

    def __init__(
        self, metrics: Path | None, test_sets: Sequence[str], evaluation: PeriodicEvaluation, writer: PeriodicWriter
    ) -> None:
        self.metrics = metrics
        self.test_sets = test_sets
        self.evaluation = evaluation
        self.writer = writer

    def before_train(self) -> None:
        start, storage = self.trainer.start_iter, self.trainer.storage
        found = Recorded() if self.metrics is None else repair(self.metrics, start, self.test_sets)
        found = comm.all_gather(found)[0]
        if start == 0:
            return
        write = self.writer.due(start) and not found.losses
        evaluate = self.evaluation.due(start) and not found.scores
        self.evaluation.recorded = start if found.scores else None
        storage.iter = start - 1
        self.restore(new=(write or evaluate) and not found.losses)
        if evaluate:
            logger.info(f"The evaluation after iteration {start - 1} is not in metrics.json: evaluating again")
            if found.losses:  # of the end of a shorter training, whose evaluation has a row of its own
                storage.iter = start
            self.evaluation.run(start)
        elif write:
            self.writer.write()
        storage.iter = start

    def restore(self, *, new: bool) -> None:
        """Restore the values that writers smooth over; with `new`, the writers have not written the newest ones."""
        storage = self.trainer.storage
        for name, (smoothed, values) in self.trainer.history.items():
            for value, iteration in values[:-1] if new else values:
                storage.histories()[name].update(value, iteration)
            if new:  # writers write what was put, not what is in the histories
                storage.put_scalar(name, values[-1][0], smoothing_hint=smoothed)
