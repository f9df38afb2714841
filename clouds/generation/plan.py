"""Division of a set into blocks and processes, and the file name, prompt and seed of each image."""

from collections.abc import Sequence

import numpy as np

from clouds.errors import UserError
from clouds.utils.world import World

MAX_IMAGES = 10**8
"""Bound of the index of an image: no set is larger, so a larger number in a file or on a command line is an error."""
MAX_PROMPTS = 10**6
"""Largest number of prompts of a set."""


def image_seed(base: int, index: int, attempt: int) -> int:
    """Return the seed of an image, 0..2^63-1.

    Args:
        base: seed of the set.
        index: global index of the image.
        attempt: number of times that the image was rejected before.
    """
    words = np.random.SeedSequence([base, index, attempt]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def blocks(part: int, num_images: int, batch_size: int, world: World) -> list[range]:
    """Return the global indices that one process generates, one range for each batch.

    Part p is [p N, (p + 1) N) for N images, cut into batches from its start. Process r of w takes the batches r,
    r + w, ... A batch therefore holds the same images for any number of processes and interruptions.

    Args:
        part: p, at least 0.
        num_images: N, number of images in a part.
        batch_size: number of images in a batch.
        world: position of this process.
    """
    start, stop = part * num_images, (part + 1) * num_images
    batches = [range(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]
    return batches[world.rank :: world.size]


def image_file_name(index: int, prompt_index: int) -> str:
    """Return the published file name of an image; the index of the prompt is its line in the file, from 0."""
    return f"im_{index}_p{prompt_index}.png"


def parse_indices(text: str) -> list[int]:
    """Parse the value of `--images`: `3,17,40-42` is [3, 17, 40, 41, 42].

    Raises:
        UserError: the text is not of that form.
    """
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        last = last if dash else first
        if not (_is_index(first) and _is_index(last) and int(first) <= int(last)):
            raise UserError(
                f"--images {text[:80]!r} is not a list of numbers below {MAX_IMAGES:,} and ranges such as 3,17,40-60."
            )
        found.update(range(int(first), int(last) + 1))
    return sorted(found)


def prompt_of(index: int, prompts: Sequence[str]) -> tuple[int, str]:
    """Return the index and the text of an image's prompt; prompts are used in turn."""
    prompt_index = index % len(prompts)
    return prompt_index, prompts[prompt_index]


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < MAX_IMAGES
