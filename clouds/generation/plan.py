"""Who paints what: numbers, names, seeds, blocks."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clouds.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among those that share the work: `rank` of `size`, and its number on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


# torchrun's names come first: under `srun torchrun` the others count machines.
_NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


def world_from(environment: Mapping[str, str] = os.environ) -> World:
    """What torchrun or SLURM says of this process; alone without them."""
    for rank, size, local_rank in _NAMES:
        if rank in environment and size in environment:
            return World(int(environment[rank]), int(environment[size]), int(environment.get(local_rank, "0")))
    return World()


def image_seed(base: int, index: int, attempt: int) -> int:
    """Seed of an image, 0..2^63-1, from the set's, its global index and how often it was rejected before."""
    words = np.random.SeedSequence([base, index, attempt]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def blocks(part: int, num_images: int, batch_size: int, world: World) -> list[range]:
    """The global indices that one process paints, a range for each batch.

    Part p is [p N, (p + 1) N) for N images, cut from its start; process r of w takes batches r, r + w, ... So a batch
    holds the same images whoever paints it, and however often the run was interrupted.
    """
    start, stop = part * num_images, (part + 1) * num_images
    cut = [range(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]
    return cut[world.rank :: world.size]


def file_name(index: int, prompt_index: int) -> str:
    """As published: global index of the image, place of its prompt in the file, both from 0."""
    return f"im_{index}_p{prompt_index}.png"


def parse_indices(text: str) -> list[int]:
    """`3,17,40-42` is [3, 17, 40, 41, 42].

    Raises:
        UserError: the text is not of that form.
    """
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UserError(f"--images {text!r} is not a list of numbers and ranges such as 3,17,40-60.")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def prompt_of(index: int, prompts: Sequence[str]) -> tuple[int, str]:
    """Place and text of the prompt of an image: prompts are taken in turn."""
    place = index % len(prompts)
    return place, prompts[place]
