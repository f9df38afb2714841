"""Scenes are drawn in chunks, each a file: by several processes, and only those that are not there yet."""

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm


def draw_in_chunks(
    folder: Path, num_scenes: int, scenes_per_chunk: int, num_workers: int, write: Callable[[range], Path]
) -> list[tuple[range, Path]]:
    """Draw scenes 0 to ``num_scenes`` - 1.

    Args:
        folder: of the files; it is made.
        num_scenes: at least 1.
        scenes_per_chunk: at most, in a file.
        num_workers: processes.
        write: given the numbers of a chunk's scenes, returns its file, drawn now or before; picklable.

    Returns:
        Every chunk's numbers and file, in order.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [
        range(first, min(first + scenes_per_chunk, num_scenes)) for first in range(0, num_scenes, scenes_per_chunk)
    ]
    progress = functools.partial(tqdm, total=len(chunks), desc="drawing scenes", unit="chunk")
    if num_workers <= 1 or len(chunks) == 1:
        files = list(progress(map(write, chunks)))
    else:
        # Spawned, not forked: torch has started its threads here.
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            files = list(progress(pool.imap(write, chunks)))
    return list(zip(chunks, files, strict=True))
