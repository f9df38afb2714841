"""Pools of scenes in many styles: drawn once, by several processes, and stored in chunks."""

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds.utils.atomic import atomic_file, make_folder
from clouds.utils.processes import parallel_map
from minicity.world.records import Rendered
from minicity.world.render import render
from minicity.world.scene import Scene, sample_scene, scene_rng
from minicity.world.sets import DRAWING_VERSION
from minicity.world.style import Style

SCENE = (256, 512)
"""Size (H, W) at which the scenes of a pool are drawn, in pixels."""
SCENES_PER_CHUNK = 100

Pixels = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[Any]]
DrawChunk = Callable[[Sequence[Style], int, range], Arrays]
"""Function that draws the scenes with these styles, this seed and these indices and returns the arrays to store."""


def draw_scene(styles: Sequence[Style], seed: int, index: int) -> tuple[Rendered, Scene, np.random.Generator]:
    """Draw scene `index` of a pool, at `SCENE` pixels. Seed and index choose its style.

    Returns:
        The rendered scene, its description, and its random generator for further draws.
    """
    style = styles[int(np.random.default_rng([seed, index]).integers(len(styles)))]
    rng = scene_rng(style, seed, index)
    scene = sample_scene(style, rng, SCENE)
    return render(scene, rng), scene, rng


def draw_in_chunks(
    folder: Path,
    draw: DrawChunk,
    styles: Sequence[Style],
    seed: int,
    num_scenes: int,
    num_workers: int,
    variant: str = "",
) -> Iterator[tuple[range, Arrays]]:
    """Draw scenes 0 to `num_scenes` - 1 of a pool, or read the chunks that an earlier call stored.

    Args:
        folder: folder of the chunks; created if missing.
        draw: draws one chunk; must be picklable.
        styles: styles to choose from.
        seed: seed of the scenes.
        num_scenes: number of scenes, at least 1.
        num_workers: number of processes.
        variant: part of the file names; identifies further settings that the arrays depend on.

    Yields:
        Indices and arrays of each chunk, in order, after all chunks have been drawn.

    Raises:
        WriteError: the folder cannot be written.
    """
    make_folder(folder)
    firsts = range(0, num_scenes, SCENES_PER_CHUNK)
    chunks = [range(first, min(first + SCENES_PER_CHUNK, num_scenes)) for first in firsts]
    # The name changes with the styles and the renderer, so that chunks of others are not read.
    styles_id = zlib.crc32(repr(tuple(styles)).encode())
    stem = folder / f"drawing{DRAWING_VERSION}_styles{styles_id:08x}_seed{seed}{variant}"
    write = functools.partial(_write_chunk, stem, draw, styles, seed)
    files = list(parallel_map(write, chunks, processes=num_workers, title="drawing scenes", unit="chunk", chunk_size=1))
    for indices, file in files:
        with np.load(file) as stored:
            yield indices, dict(stored)


def _write_chunk(stem: Path, draw: DrawChunk, styles: Sequence[Style], seed: int, indices: range) -> Path:
    """Return the file of a chunk; draw it if it does not exist."""
    file = stem.with_name(f"{stem.name}_{indices.start:06d}-{indices.stop:06d}.npz")
    if not file.is_file():
        arrays: dict[str, Any] = draw(styles, seed, indices)
        with atomic_file(file) as stream:
            np.savez(stream, **arrays)
    return file
