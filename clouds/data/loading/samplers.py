"""The order of the training pictures: fixed by the seed, shared by the processes, with a place to resume at."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class TrainingSampler(Sampler[tuple[int, int]]):
    """Endless sequence of (draw, index): every epoch is a fresh shuffle of the set.

    One global sequence, numbered by `draw`, is fixed by (seed, size) alone; process r of P takes the draws
    `position + r, position + r + P, ...`. So no two processes draw the same, and a run that resumes at draw n sees what
    an uninterrupted one would have seen, also with another number of processes.
    """

    def __init__(self, size: int, seed: int, *, position: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """
        Args:
            size: number of pictures, at least 1.
            seed: of the shuffles, not negative.
            position: number of draws, over all processes, that came before.
            rank: number of this process.
            world_size: how many processes there are.
        """
        if size < 1 or seed < 0 or position < 0:
            raise ValueError(f"size >= 1, seed >= 0 and position >= 0, not {size}, {seed} and {position}")
        self.size = size
        self.seed = seed
        self.position = position
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draw = self.position + self.rank
        epoch, start = self.locate(draw)
        while True:
            order = self.order(epoch)
            while draw < start + len(order):
                yield draw, int(order[draw - start])
                draw += self.world_size
            epoch, start = epoch + 1, start + len(order)

    def locate(self, draw: int) -> tuple[int, int]:
        """The epoch that a draw falls into, and the first draw of that epoch."""
        epoch = draw // self.size
        return epoch, epoch * self.size

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        """The indices of an epoch, in order."""
        return self._shuffled(np.arange(self.size), epoch)

    def _shuffled(self, indices: npt.NDArray[np.intp], epoch: int) -> npt.NDArray[np.intp]:
        # The 1 keeps this stream apart from those of the single draws, [seed, draw].
        return indices[np.random.default_rng([self.seed, epoch, 1]).permutation(len(indices))]


class WeightedTrainingSampler(TrainingSampler):
    """The same with a repeat factor for each picture: f is floor(f) copies in an epoch, and one more with the
    probability of the fraction, drawn anew in every epoch. So epochs differ in length.

    With factors of 1 the sequence is that of `TrainingSampler`.
    """

    def __init__(
        self, factors: Sequence[float], seed: int, *, position: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Args:
            factors: of the pictures, above 0 and one of them at least 1, so that no epoch is empty.
            seed: of the shuffles and the fractions, not negative.
            position: number of draws, over all processes, that came before.
            rank: number of this process.
            world_size: how many processes there are.
        """
        super().__init__(len(factors), seed, position=position, rank=rank, world_size=world_size)
        self.factors = np.asarray(factors, dtype=np.float64)
        if not (np.isfinite(self.factors).all() and self.factors.min() > 0 and self.factors.max() >= 1):
            raise ValueError("repeat factors must be above 0 and one of them at least 1")

    def locate(self, draw: int) -> tuple[int, int]:
        # Only the lengths of the epochs before are drawn, not their orders.
        epoch = start = 0
        while draw >= (end := start + int(self._copies(epoch).sum())):
            epoch, start = epoch + 1, end
        return epoch, start

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        return self._shuffled(np.repeat(np.arange(self.size), self._copies(epoch)), epoch)

    def _copies(self, epoch: int) -> npt.NDArray[np.intp]:
        """How often each picture is in an epoch: (size,)."""
        # The 3 keeps this stream apart from the shuffles', 1, and from those of the draws.
        chances = np.random.default_rng([self.seed, epoch, 3]).random(self.size)
        whole = np.floor(self.factors)
        return (whole + (chances < self.factors - whole)).astype(np.intp)


def contiguous_share(size: int, rank: int, world_size: int) -> range:
    """Which of the indices 0..size-1 are process `rank`'s; over the processes the lengths differ by at most 1."""
    return range(rank * size // world_size, (rank + 1) * size // world_size)
