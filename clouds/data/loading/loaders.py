"""Loaders: endless batches for training, one image at a time for evaluation.

torch's DataLoader transports the samples between processes. The loaders here add a position to resume from, randomness
that is independent of the number of workers, and errors that reach the user as one sentence.

Workers live as long as an iterator: those of a training for the whole run, those of a test set for one evaluation, so
that they hold no memory while the training goes on. `WorkerBatches` starts them again if one dies or hangs.
"""

import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from clouds.d2 import CfgNode, comm
from clouds.data.datasets.catalog import dataset_names, domain, load_dataset, require_names
from clouds.data.datasets.record import Record, is_generated
from clouds.data.loading import rare_classes  # noqa: F401  (registers its sampler)
from clouds.data.loading.batch import Batch, Failure
from clouds.data.loading.mappers import TestMapper, TrainMapper
from clouds.data.loading.samplers import Datasets, TrainingSampler, build_sampler, contiguous_share
from clouds.data.loading.samples import Skipped, TestSamples, TrainSamples
from clouds.data.loading.workers import WorkerBatches, worker_arguments
from clouds.errors import UserError
from clouds.utils.processes import available_cores

logger = logging.getLogger(__name__)

AUTOMATIC = -1
"""Value of `DATALOADER.NUM_WORKERS` for `automatic_workers`."""

_MOST_WORKERS = 8  # one maps some 30 images of GTA5 a second; more workers hold memory for batches that wait


class TrainLoader:
    """Endless iterable of batches, lists of mapped records, with a position to resume from.

    Each mapped record also has `seed`, an int in [0, 2**63) that depends on the sampler's seed and the draw alone. What
    the network draws at random for an image (the points of its loss) should depend on it, so that the result does not
    depend on the other images of the batch or on the number of processes.

    With `skip_errors`, an image that cannot be read is replaced by the image of the next draw. The mapped record that
    takes its place has `skipped`, a list of `Skipped`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record, np.random.Generator], Record],
        sampler: TrainingSampler,
        *,
        batch_size: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        skip_errors: bool = False,
        **restarts: Any,
    ) -> None:
        """
        Args:
            records: records of the training images.
            mapper: function of a record and a random generator that returns the mapped record.
            sampler: order of the records, and the processes that share them.
            batch_size: number of images per step over all processes, a multiple of their number.
            num_workers: number of worker processes that load images; 0 for none. The samples do not depend on it.
            pin_memory: put the tensors into page-locked memory, for a GPU.
            skip_errors: replace images whose mapping raises `UserError`.
            restarts: further arguments of `WorkerBatches`.

        Raises:
            ValueError: the processes cannot share a batch.
        """
        if batch_size < 1 or batch_size % sampler.world_size:
            raise ValueError(f"batch_size is {batch_size}; it must be a multiple of world_size, {sampler.world_size}")
        self.records = records
        self.mapper = mapper
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.skip_errors = skip_errors
        self.restarts = restarts
        self._skipped = list[Skipped]()
        self.position = sampler.position
        self.seed = sampler.seed

    def __iter__(self) -> "TrainBatches":
        share = self.batch_size // self.sampler.world_size
        position, seed = self.position, self.seed

        def sampler(batch: int) -> TrainingSampler:
            own = copy.copy(self.sampler)
            own.position, own.seed = position + batch * self.batch_size, seed
            return own

        def start(batch: int) -> Iterable[Batch | Failure]:
            return DataLoader(
                TrainSamples(self.records, self.mapper, sampler(batch), skip_errors=self.skip_errors),
                batch_size=share,
                sampler=sampler(batch),
                collate_fn=Batch.collate,
                **worker_arguments(self.num_workers, pin_memory=self.pin_memory),
            )

        def files(batch: int) -> list[str]:
            return [self.records[draw.index]["file_name"] for draw in itertools.islice(sampler(batch), share)]

        return TrainBatches(self, WorkerBatches(start, files, **self.restarts))

    def hand_out(self, batch: list[Record]) -> None:
        """Count a batch of this process's share; `TrainBatches` calls it."""
        self.position += self.batch_size
        self._skipped += itertools.chain.from_iterable(sample.get("skipped", ()) for sample in batch)

    def take_skipped(self) -> list[Skipped]:
        """Return what this process has skipped in the batches handed out since the last call."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def state_dict(self) -> dict[str, int]:
        """Return the state of the loader.

        Returns:
            `position`: number of images in the batches handed out so far over all processes, without those that workers
            have loaded ahead; `seed`: seed of the sampler.
        """
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where the loader that returned `state` was; takes effect at the next `iter()`."""
        self.position = state["position"]
        self.seed = state["seed"]


class TrainBatches(Iterator[list[Record]]):
    """Batches of a `TrainLoader`, whose position counts the batches that were handed out."""

    def __init__(self, loader: TrainLoader, batches: Iterator[Batch | Failure]) -> None:
        self._loader = loader
        self._batches = batches
        self._ahead: list[Record] | Exception | None = None

    def peek(self) -> list[Record]:
        """Return the batch that is next, or raise the error that is next. It is not handed out yet."""
        if self._ahead is None:
            try:
                self._ahead = next(self._batches).samples()
            except Exception as error:  # noqa: BLE001 - raised below, and again by `next`
                self._ahead = error
        if isinstance(self._ahead, Exception):
            raise self._ahead
        return self._ahead

    def __next__(self) -> list[Record]:
        batch, self._ahead = self.peek(), None
        self._loader.hand_out(batch)
        return batch


class TestLoader:
    """This process's share of a test set, as batches (lists) of the samples of one image, in order."""

    __test__ = False  # its name would make pytest collect it

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record], Record | list[Record]],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
        **restarts: Any,
    ) -> None:
        """
        Args:
            records: records of the whole test set.
            mapper: function of a record that returns the mapped record, or several samples of it.
            num_workers: number of worker processes that load images; 0 for none.
            pin_memory: put the tensors into page-locked memory, for a GPU.
            rank: rank of this process.
            world_size: number of processes.
            restarts: further arguments of `WorkerBatches`.
        """
        self.records = [records[index] for index in contiguous_share(len(records), rank, world_size)]
        self.mapper = mapper
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.restarts = restarts

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[list[Record]]:
        def start(batch: int) -> Iterable[Batch | Failure]:
            return DataLoader(
                TestSamples(self.records[batch:], self.mapper),
                batch_size=1,
                collate_fn=Batch.collate,
                **worker_arguments(self.num_workers, pin_memory=self.pin_memory),
            )

        def files(batch: int) -> list[str]:
            return [self.records[batch]["file_name"]]

        return (batch.samples() for batch in WorkerBatches(start, files, **self.restarts))


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """Build the loader of all data sets in `DATASETS.TRAIN`; all processes call it together.

    Raises:
        UserError: there is no such data set or sampler, a data set is incomplete, generated images are to be trained on
            without self-training, or the processes cannot share a batch of `SOLVER.IMS_PER_BATCH`.
    """
    names, world_size = dataset_names(cfg.DATASETS.TRAIN), comm.get_world_size()
    require_names("DATASETS.TRAIN", names, cfg.DATASETS.CUSTOM)
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; it must be a multiple of {world_size}, the number of "
            "processes."
        )
    datasets = [(name, load_dataset(name)) for name in names]
    for name, records in datasets:
        logger.info("%s: %d training images", name, len(records))
    _check_self_training(cfg, datasets)
    sampler = build_sampler(cfg, datasets)
    records = [record for _, part in datasets for record in part]
    _log_epoch(records, sampler)
    return TrainLoader(
        records,
        TrainMapper(cfg),
        sampler,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        skip_errors=cfg.DATALOADER.ON_ERROR == "skip",
        **_transport(cfg),
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> TestLoader:
    """Build the loader of a test set, which is split contiguously over the processes.

    Raises:
        UserError: there is no such data set, or it is incomplete.
    """
    return TestLoader(
        load_dataset(dataset_name),
        TestMapper(cfg, domain=domain(dataset_name)),
        **_transport(cfg),
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def automatic_workers(cores: int, processes: int) -> int:
    """Return the number of workers of each process if a machine's cores are shared by several training processes.

    Every process leaves one of its cores to itself, and has at least one worker and at most eight.
    """
    return min(max(cores // processes - 1, 1), _MOST_WORKERS)


def _transport(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of a loader that say how samples get to the model."""
    workers = cfg.DATALOADER.NUM_WORKERS
    if workers == AUTOMATIC:
        workers = automatic_workers(available_cores(), comm.get_local_size())
    return {
        "num_workers": workers,
        "pin_memory": cfg.MODEL.DEVICE.startswith("cuda"),
        "setting": "DATALOADER.NUM_WORKERS",
    }


def _check_self_training(cfg: CfgNode, datasets: Datasets) -> None:
    """Check that generated images are trained on with self-training, because they have no labels."""
    generated = [name for name, records in datasets if any(map(is_generated, records))]
    enabled = cfg.MODEL.CLOUDS.SAM.MINIBATCH
    if generated and not enabled:
        raise UserError(
            f"DATASETS.TRAIN has images without labels in {', '.join(generated)}, which only self-training can use: "
            "set MODEL.CLOUDS.SAM.MINIBATCH True, or leave the set out."
        )
    if enabled and not generated:
        logger.warning(
            "MODEL.CLOUDS.SAM.MINIBATCH is on, but no set in DATASETS.TRAIN has generated images: "
            "this trains on the labeled ones alone."
        )


def _log_epoch(records: Sequence[Record], sampler: TrainingSampler) -> None:
    """Log the number of images in an epoch: in all, labelled and generated, each with the mean repeat factor."""
    generated, factors = np.array([is_generated(record) for record in records]), sampler.expected_counts()
    kinds = [("labeled", factors[~generated]), ("generated", factors[generated])]
    listed = ", ".join(f"{len(own)} {kind} x {own.mean():g}" for kind, own in kinds if len(own))
    average = "" if (factors % 1 == 0).all() else " on average"
    logger.info("An epoch has %.0f images%s: %s", factors.sum(), average, listed)
