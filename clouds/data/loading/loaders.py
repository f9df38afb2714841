"""Loaders over the catalogue: endless batches for training, one picture at a time for testing.

torch's DataLoader carries the samples between processes; what it lacks is here: a position to resume from, randomness
that does not depend on the number of workers, and errors that reach the user as the sentence they are.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from clouds.d2 import CfgNode, comm
from clouds.data.datasets.catalog import dataset_names, load_dataset
from clouds.data.datasets.record import Record, is_generated
from clouds.data.loading.mappers import TestMapper, TrainMapper
from clouds.data.loading.rare_classes import RareClasses, rare_classes, read_statistics
from clouds.data.loading.samplers import TrainingSampler, WeightedTrainingSampler, contiguous_share
from clouds.errors import UserError

logger = logging.getLogger(__name__)


class _Failure:
    """A UserError on its way out of a worker: torch would wrap the exception itself in the worker's traceback."""

    def __init__(self, message: str) -> None:
        self.message = message


class _TrainSamples(Dataset[Record | _Failure]):
    """(draw, index) -> mapped record, its view drawn by a generator of the draw's own; `seed` is for what follows."""

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record, np.random.Generator], Record],
        seed: int,
        rare: RareClasses | None,
    ) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.rare = rare

    def __getitem__(self, key: tuple[int, int]) -> Record | _Failure:
        draw, index = key
        record = self.records[index]
        if self.rare is not None and not is_generated(record):
            # The 5 keeps this stream apart from the others of the draw.
            index, rare_class = self.rare.choose(np.random.default_rng([self.seed, draw, 5]))
            record = {**self.records[index], "rare_class": rare_class}
        try:
            mapped = self.mapper(record, np.random.default_rng([self.seed, draw]))
        except UserError as error:
            return _Failure(str(error))
        # The 2 keeps this stream apart from the view's and from the shuffles'.
        (own,) = np.random.SeedSequence([self.seed, draw, 2]).generate_state(1, np.uint64)
        return {**mapped, "seed": int(own >> 1)}


class _TestSamples(Dataset[Record | _Failure]):
    def __init__(self, records: Sequence[Record], mapper: Callable[[Record], Record]) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record | _Failure:
        try:
            return self.mapper(self.records[index])
        except UserError as error:
            return _Failure(str(error))


class TrainLoader:
    """Endless batches (lists of mapped records) with a position.

    Each record also gets `seed`, an int in [0, 2**63) that follows from the loader's seed and the draw. What a network
    draws for this picture (the points of its loss) is to follow from it, whatever pictures and processes are beside it.

    `state_dict()` counts the batches that were handed out, not those that workers have prepared ahead.
    """

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record, np.random.Generator], Record],
        *,
        batch_size: int,
        seed: int,
        factors: Sequence[float] | None = None,
        rare: RareClasses | None = None,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            records: of the training set.
            mapper: record and generator -> mapped record.
            batch_size: pictures a step over all processes, a multiple of `world_size`.
            seed: of the order and of every view, not negative; the same in all processes.
            factors: how often each record comes in an epoch, see `WeightedTrainingSampler`; None = once.
            rare: draws the labelled pictures by class; None = each has its own turns.
            num_workers: processes that prepare samples; 0 = this one. It has no influence on what comes out.
            rank: number of this process.
            world_size: how many processes there are.
        """
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size is {batch_size}; it must be a multiple of world_size, {world_size}")
        self.records = records
        self.mapper = mapper
        self.batch_size = batch_size
        self.seed = seed
        self.factors = factors
        self.rare = rare
        self.num_workers = num_workers
        self.rank = rank
        self.world_size = world_size
        self.position = 0

    def __iter__(self) -> Iterator[list[Record]]:
        place = {"position": self.position, "rank": self.rank, "world_size": self.world_size}
        if self.factors is None:
            sampler = TrainingSampler(len(self.records), self.seed, **place)
        else:
            sampler = WeightedTrainingSampler(self.factors, self.seed, **place)
        batches = DataLoader(
            _TrainSamples(self.records, self.mapper, self.seed, self.rare),
            batch_size=self.batch_size // self.world_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_list,
            worker_init_fn=_one_thread,
        )
        for batch in batches:
            self.position += self.batch_size
            yield _unwrapped(batch)

    def state_dict(self) -> dict[str, int]:
        """`position`: pictures handed out so far over all processes; `seed`: whose order that position is in."""
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the loader that gave `state` was; takes effect at the next `iter()`."""
        self.position = state["position"]
        self.seed = state["seed"]


class TestLoader:
    """This process's share of a test set, as batches (lists) of one mapped record."""

    __test__ = False  # its name would make pytest collect it

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record], Record],
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.records = [records[index] for index in contiguous_share(len(records), rank, world_size)]
        self.mapper = mapper
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[list[Record]]:
        batches = DataLoader(
            _TestSamples(self.records, self.mapper),
            batch_size=1,
            num_workers=self.num_workers,
            collate_fn=_as_list,
            worker_init_fn=_one_thread,
        )
        return map(_unwrapped, batches)


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """All sets of `cfg.DATASETS.TRAIN` in one endless shuffle; `cfg.SOLVER.IMS_PER_BATCH` counts all processes.

    With the sampler WeightedTrainingSampler a labelled picture comes `DATASETS.SOURCE_FACTOR` times an epoch, a
    generated one `TARGET_FACTOR` times. `cfg.SEED` fixes order and views; where it is negative, the processes agree on
    a random one.

    Raises:
        UserError: an unknown or incomplete data set, an unknown sampler or factors it cannot work with, generated
            pictures without self-training, or a batch that the processes cannot share.
    """
    names, world_size = dataset_names(cfg.DATASETS.TRAIN), comm.get_world_size()
    if not names:
        raise UserError("DATASETS.TRAIN is empty: name at least one data set to train on.")
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; it must be a multiple of {world_size}, the number of "
            "processes."
        )
    parts = [load_dataset(name) for name in names]
    for name, part in zip(names, parts, strict=True):
        logger.info("%s: %d training images", name, len(part))
    records = [record for part in parts for record in part]
    _check_self_training(cfg, [name for name, part in zip(names, parts, strict=True) if any(map(is_generated, part))])
    return TrainLoader(
        records,
        TrainMapper(cfg),
        factors=_repeat_factors(cfg, records),
        rare=_rare_classes(cfg, dict(zip(names, parts, strict=True))),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.get_rank(),
        world_size=world_size,
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> TestLoader:
    """A test set in order, split contiguously over the processes.

    Raises:
        UserError: an unknown or incomplete data set, or an unknown `cfg.TEST.PROTOCOL`.
    """
    return TestLoader(
        load_dataset(dataset_name),
        TestMapper(cfg),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def _check_self_training(cfg: CfgNode, generated: list[str]) -> None:
    """Generated pictures have no labels but the teacher's; `generated`: names of the training sets that have some."""
    teaches = cfg.MODEL.CLOUDS.SAM.MINIBATCH
    if generated and not teaches:
        raise UserError(
            f"DATASETS.TRAIN has images without labels in {', '.join(generated)}, which only self-training can use: "
            "set MODEL.CLOUDS.SAM.MINIBATCH True, or leave the set out."
        )
    if teaches and not generated:
        logger.warning(
            "MODEL.CLOUDS.SAM.MINIBATCH is on, but no set in DATASETS.TRAIN has generated images: "
            "this trains on the labelled ones alone."
        )


def _repeat_factors(cfg: CfgNode, records: Sequence[Record]) -> list[float] | None:
    """Of each record; None where the sampler takes every one once an epoch."""
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    num_generated = sum(map(is_generated, records))
    weighted = sampler != "TrainingSampler"
    source, target = (cfg.DATASETS.SOURCE_FACTOR, cfg.DATASETS.TARGET_FACTOR) if weighted else (1.0, 1.0)
    factors = [target if is_generated(record) else source for record in records]
    if max(factors) < 1:
        raise UserError(
            f"DATASETS.SOURCE_FACTOR is {source} and TARGET_FACTOR {target}: one of those in use must be at least 1, "
            "or an epoch could be empty; what counts is their ratio."
        )
    logger.info(
        "An epoch has %.0f images%s: %d labelled x %g, %d generated x %g",
        sum(factors),
        " on average" if weighted else "",
        len(records) - num_generated,
        source,
        num_generated,
        target,
    )
    return factors if weighted else None


def _rare_classes(cfg: CfgNode, parts: Mapping[str, Sequence[Record]]) -> RareClasses | None:
    """None where the sampler does not ask for them."""
    if cfg.DATALOADER.SAMPLER_TRAIN != "RareClassSampler":
        return None
    options = cfg.DATALOADER.RARE_CLASS
    counts = read_statistics(parts, cfg.DATASETS.CUSTOM)
    try:
        rare = rare_classes(counts, temperature=options.TEMPERATURE, min_pixels=options.MIN_PIXELS)
    except ValueError as error:
        raise UserError(f"Rare-class sampling: {error} (DATALOADER.RARE_CLASS.MIN_PIXELS).") from error
    chances = zip(rare.classes, rare.probabilities, rare.pictures, strict=True)
    listed = ", ".join(f"{c}: {100 * chance:.1f} % ({len(images)})" for c, chance, images in chances)
    logger.info("Labelled images are drawn by class, train id: chance (images with it): %s", listed)
    return rare


def _as_list(samples: list[Record | _Failure]) -> list[Record | _Failure]:
    return samples


def _unwrapped(batch: list[Record | _Failure]) -> list[Record]:
    records = []
    for sample in batch:
        if isinstance(sample, _Failure):
            raise UserError(sample.message)
        records.append(sample)
    return records


def _one_thread(worker: int) -> None:
    # Workers are the parallelism here; OpenCV's pool in each of them would only fight for the same cores.
    del worker
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
