"""Samplers: the order of the training images, fixed by the seed, shared by the processes, resumable at any draw.

The registry `SAMPLER_REGISTRY` has the samplers that `DATALOADER.SAMPLER_TRAIN` can name. To add one, register a class
with the interface of `TrainingSampler`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from clouds.d2 import CfgNode, Registry, comm, configurable
from clouds.data.datasets.record import Record, is_generated
from clouds.errors import UserError, check_name

logger = logging.getLogger(__name__)

SAMPLER_REGISTRY = Registry("SAMPLER")
"""Training samplers, called with (cfg, `Datasets`)."""

Datasets = Sequence[tuple[str, Sequence[Record]]]
"""Name and records of each training set. The indices of a sampler count the records of all sets in this order."""


@dataclass(frozen=True)
class Draw:
    """One draw of a training image."""

    number: int
    """Number of the draw, over all processes."""
    index: int
    """Index of the image."""
    required_class: int | None = None
    """Train id of a class that the crop of the image should show; None for no requirement."""


@SAMPLER_REGISTRY.register()
class TrainingSampler(Sampler[Draw]):
    """Endless sequence of draws; every epoch is a new permutation of the images.

    One global sequence, numbered by `Draw.number`, depends on `seed` and `size` alone. Process r of P takes the draws
    `position + r`, `position + r + P`, .... So no two processes draw the same image in an epoch, and a run that resumes
    at draw n sees what an uninterrupted one would have seen, even with another number of processes.
    """

    @configurable
    def __init__(self, size: int, seed: int, *, position: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """
        Args:
            size: number of images, at least 1.
            seed: seed of the permutations, at least 0.
            position: number of earlier draws, over all processes.
            rank: rank of this process.
            world_size: number of processes.

        Raises:
            ValueError: an argument is out of range.
        """
        if size < 1 or seed < 0 or position < 0:
            raise ValueError(f"size >= 1, seed >= 0 and position >= 0, not {size}, {seed} and {position}")
        self.size = size
        self.seed = seed
        self.position = position
        self.rank = rank
        self.world_size = world_size

    @classmethod
    def from_config(cls, cfg: CfgNode, datasets: Datasets) -> dict[str, Any]:
        return {"size": sum(len(records) for _, records in datasets), **process_arguments(cfg)}

    def __iter__(self) -> Iterator[Draw]:
        number = self.position + self.rank
        epoch, start = self.locate(number)
        while True:
            order = self.order(epoch)
            while number < start + len(order):
                yield self.draw(number, int(order[number - start]))
                number += self.world_size
            epoch, start = epoch + 1, start + len(order)

    def at(self, number: int) -> Draw:
        """Return the draw with a number, of whatever process."""
        epoch, start = self.locate(number)
        return self.draw(number, int(self.order(epoch)[number - start]))

    def draw(self, number: int, index: int) -> Draw:
        """Return a draw, given its number and the image that the order of the epoch has for it."""
        return Draw(number, index)

    def locate(self, number: int) -> tuple[int, int]:
        """Return the epoch of a draw and the number of the first draw in that epoch."""
        epoch = number // self.size
        return epoch, epoch * self.size

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        """Return the image indices of an epoch, in order."""
        return self._permuted(np.arange(self.size), epoch)

    def expected_counts(self) -> npt.NDArray[np.float64]:
        """Return how often each image occurs in an epoch on average: (size,)."""
        return np.ones(self.size)

    def _permuted(self, indices: npt.NDArray[np.intp], epoch: int) -> npt.NDArray[np.intp]:
        # The 1 separates this random stream from those of the single draws, [seed, number].
        return indices[np.random.default_rng([self.seed, epoch, 1]).permutation(len(indices))]


@SAMPLER_REGISTRY.register()
class WeightedTrainingSampler(TrainingSampler):
    """`TrainingSampler` with a repeat factor per image.

    In each epoch, an image with the factor f occurs floor(f) times, and once more with the probability f - floor(f).
    So the lengths of epochs differ. With factors of 1 the sequence is that of `TrainingSampler`.
    """

    @configurable
    def __init__(
        self, factors: Sequence[float], seed: int, *, position: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Args:
            factors: repeat factor of each image, above 0. At least one is 1 or more, so that no epoch is empty.
            seed: seed of the permutations and of the fractions, at least 0.
            position: number of earlier draws, over all processes.
            rank: rank of this process.
            world_size: number of processes.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__(len(factors), seed, position=position, rank=rank, world_size=world_size)
        self.factors = np.asarray(factors, dtype=np.float64)
        if not (np.isfinite(self.factors).all() and self.factors.min() > 0 and self.factors.max() >= 1):
            raise ValueError("factors must be above 0 and one of them at least 1")

    @classmethod
    def from_config(cls, cfg: CfgNode, datasets: Datasets) -> dict[str, Any]:
        return {"factors": repeat_factors(cfg, datasets), **process_arguments(cfg)}

    def locate(self, number: int) -> tuple[int, int]:
        # Only the lengths of the earlier epochs are drawn, not their orders.
        epoch = start = 0
        while number >= (end := start + int(self._copies(epoch).sum())):
            epoch, start = epoch + 1, end
        return epoch, start

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        return self._permuted(np.repeat(np.arange(self.size), self._copies(epoch)), epoch)

    def expected_counts(self) -> npt.NDArray[np.float64]:
        return self.factors

    def _copies(self, epoch: int) -> npt.NDArray[np.intp]:
        """Return how often each image occurs in an epoch: (size,)."""
        # The 3 separates this random stream from those of the permutations, 1, and of the draws.
        chances = np.random.default_rng([self.seed, epoch, 3]).random(self.size)
        whole = np.floor(self.factors)
        return (whole + (chances < self.factors - whole)).astype(np.intp)


def build_sampler(cfg: CfgNode, datasets: Datasets) -> TrainingSampler:
    """Build the sampler that `DATALOADER.SAMPLER_TRAIN` names; all processes call it together.

    Args:
        cfg: config.
        datasets: training sets.

    Raises:
        UserError: there is no such sampler, or its settings do not fit the data sets.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    check_name("DATALOADER.SAMPLER_TRAIN", name, dict(SAMPLER_REGISTRY))
    sampler: TrainingSampler = SAMPLER_REGISTRY.get(name)(cfg, datasets)
    return sampler


def process_arguments(cfg: CfgNode) -> dict[str, int]:
    """Return the arguments `seed`, `rank` and `world_size` of a sampler.

    The seed is `SEED`; if it is negative, the processes agree on a random one.
    """
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    return {"seed": seed, "rank": comm.get_rank(), "world_size": comm.get_world_size()}


def repeat_factors(cfg: CfgNode, datasets: Datasets) -> list[float]:
    """Return the repeat factor of each record.

    It is `DATASETS.TARGET_FACTOR` for generated images and `DATASETS.SOURCE_FACTOR` for labelled ones.

    Raises:
        UserError: all factors in use are below 1, so an epoch could be empty.
    """
    source, target = cfg.DATASETS.SOURCE_FACTOR, cfg.DATASETS.TARGET_FACTOR
    factors = [target if is_generated(record) else source for _, records in datasets for record in records]
    if max(factors) < 1:
        raise UserError(
            f"DATASETS.SOURCE_FACTOR is {source} and TARGET_FACTOR {target}: one of those in use must be at least 1, "
            "or an epoch could be empty; what counts is their ratio."
        )
    return factors


def contiguous_share(size: int, rank: int, world_size: int) -> range:
    """Return the indices of a process when 0 to `size` - 1 are split into contiguous parts of equal length, up to 1."""
    return range(rank * size // world_size, (rank + 1) * size // world_size)
