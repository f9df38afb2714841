"""List of the training images that cannot be read and are skipped."""

import logging
from itertools import chain
from pathlib import Path

from clouds.d2 import HookBase, comm
from clouds.data.loading.loaders import TrainLoader
from clouds.errors import UserError
from clouds.utils.jsonl import Row, valid_rows, write_rows

logger = logging.getLogger(__name__)

SHARE = 0.01
"""Largest share of the training images that may be skipped, but `FEW` images always may."""

FEW = 10


class SkippedImages(HookBase):
    """Writes each image that a loader has skipped to the log and to a file, and stops if they are too many.

    All processes know the images of all. A resumed run continues the file where its checkpoint was. It must precede the
    hook of the checkpoints, so that the file has what a checkpoint passes over.

    Args:
        loader: loader of the training.
        file: JSON lines, one for each image: `file_name`, `reason`, and the `iteration` that skipped it first.
    """

    def __init__(self, loader: TrainLoader, file: Path) -> None:
        self.loader = loader
        self.file = file
        self.limit = max(FEW, int(SHARE * len(loader.records)))
        self.rows: dict[str, Row] = {}

    def before_train(self) -> None:
        # The file of the main process counts; a killed run has rows behind its checkpoint, which it will meet again.
        rows = comm.all_gather(valid_rows(self.file))[0]
        self.rows = {row["file_name"]: row for row in rows if row["iteration"] < self.trainer.start_iter}
        if len(self.rows) < len(rows) and comm.is_main_process():
            write_rows(self.file, self.rows.values())

    def after_step(self) -> None:
        found = sorted(chain.from_iterable(comm.all_gather(self.loader.take_skipped())))
        before = len(self.rows)
        for skipped in found:
            row = {"file_name": skipped.file_name, "reason": skipped.reason, "iteration": self.trainer.iter}
            if self.rows.setdefault(skipped.file_name, row) is row and comm.is_main_process():
                logger.warning(f"An image is skipped: {skipped.reason}")
        if len(self.rows) == before:
            return
        if comm.is_main_process():
            write_rows(self.file, self.rows.values())
        if len(self.rows) > self.limit:
            raise UserError(
                f"{len(self.rows)} of {len(self.loader.records)} training images cannot be read, and "
                f"DATALOADER.ON_ERROR skip allows {self.limit}: repair those in {self.file}, or see "
                "whether a disk is missing."
            )

    def after_train(self) -> None:
        if self.rows and comm.is_main_process():
            logger.warning(f"{len(self.rows)} training image(s) could not be read and were skipped, see {self.file}")
