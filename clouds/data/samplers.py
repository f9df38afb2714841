"""The order of the training pictures: fixed by the seed, shared by the processes, with a place to resume at."""

from collections.abc import Iterator

import numpy as np
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
        while True:
            epoch = draw // self.size
            # The 1 keeps this stream apart from those of the single draws, [seed, draw].
            order = np.random.default_rng([self.seed, epoch, 1]).permutation(self.size)
            while draw < (epoch + 1) * self.size:
                yield draw, int(order[draw - epoch * self.size])
                draw += self.world_size


def contiguous_share(size: int, rank: int, world_size: int) -> range:
    """Which of the indices 0..size-1 are process `rank`'s; over the processes the lengths differ by at most 1."""
    return range(rank * size // world_size, (rank + 1) * size // world_size)
