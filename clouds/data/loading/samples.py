"""Samples of a data set, by draw or by index; workers of a loader map them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from clouds.data.datasets.record import Record
from clouds.data.loading.batch import Failure
from clouds.data.loading.samplers import Draw, TrainingSampler
from clouds.errors import UserError

_MOST_SKIPPED = 10  # images in a row; more of them are not single files but a disk or a whole data set


class Skipped(NamedTuple):
    """Training image that could not be read.

    Attributes:
        number: number of the draw that met it.
        file_name: path of the image.
        reason: message of the error.
    """

    number: int
    file_name: str
    reason: str


class TrainSamples(Dataset[Record | Failure]):
    """Maps a draw to its mapped record. The random view depends on the seed and the number of the draw alone.

    Args:
        records: records of the training images.
        mapper: function of a record and a random generator that returns the mapped record.
        sampler: order of the records.
        skip_errors: whether images whose mapping raises `UserError` are replaced, see `TrainLoader`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record, np.random.Generator], Record],
        sampler: TrainingSampler,
        *,
        skip_errors: bool = False,
    ) -> None:
        self.records = records
        self.mapper = mapper
        self.sampler = sampler
        self.skip_errors = skip_errors

    def __getitem__(self, draw: Draw) -> Record | Failure:
        # The images of the next draws take the place of images that cannot be read, with the view of this draw: they
        # depend on seed and number alone.
        skipped = list[Skipped]()
        candidate = draw
        while True:
            record = self.records[candidate.index]
            try:
                mapped = self._map(record, candidate, draw.number)
                break
            except UserError as error:
                if not self.skip_errors:
                    return Failure(str(error))
                skipped.append(Skipped(draw.number, record["file_name"], str(error)))
            if len(skipped) == _MOST_SKIPPED:
                return Failure(f"{_MOST_SKIPPED} images in a row cannot be read; the first: {skipped[0].reason}")
            candidate = self.sampler.at(candidate.number + 1)
        # The 2 separates this random stream from those of the view and of the sampler.
        (own,) = np.random.SeedSequence([self.sampler.seed, draw.number, 2]).generate_state(1, np.uint64)
        return {**mapped, "seed": int(own >> 1), **({"skipped": skipped} if skipped else {})}

    def _map(self, record: Record, draw: Draw, number: int) -> Record:
        if draw.required_class is not None:
            record = {**record, "rare_class": draw.required_class}
        return self.mapper(record, np.random.default_rng([self.sampler.seed, number]))


class TestSamples(Dataset[Record | list[Record] | Failure]):
    """Maps an index to its mapped record or samples. An image that cannot be read is never replaced.

    Args:
        records: records of the test images.
        mapper: function of a record that returns the mapped record, or several samples of it.
    """

    __test__ = False  # its name would make pytest collect it

    def __init__(self, records: Sequence[Record], mapper: Callable[[Record], Record | list[Record]]) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record | list[Record] | Failure:
        try:
            return self.mapper(self.records[index])
        except UserError as error:
            return Failure(str(error))
