"""Scenes of many styles, drawn once: by several processes, in chunks that are kept as files."""

import functools
import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from clouds.utils.atomic import atomic_file
from minicity.world.datasets import DRAWING
from minicity.world.render import Rendered, render
from minicity.world.scene import Scene, sample_scene, scene_rng
from minicity.world.style import Style

SCENE = (256, 512)
SCENES_PER_CHUNK = 100

Pixels = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[Any]]
Draw = Callable[[Sequence[Style], int, range], Arrays]
"""Styles, seed and numbers of scenes to what is kept of them."""


def draw_scene(styles: Sequence[Style], seed: int, index: int) -> tuple[Rendered, Scene, np.random.Generator]:
    """Draw a scene by number, `SCENE` pixels, in one of the styles, chosen by the number.

    Returns:
        The picture, what it shows, and the scene's own generator for whatever else is drawn by lot.
    """
    style = styles[int(np.random.default_rng([seed, index]).integers(len(styles)))]
    rng = scene_rng(style, seed, index)
    scene = sample_scene(style, rng, SCENE)
    return render(scene, rng), scene, rng


def draw_in_chunks(
    folder: Path, draw: Draw, styles: Sequence[Style], seed: int, num_scenes: int, num_workers: int, variant: str = ""
) -> Iterator[tuple[range, Arrays]]:
    """Draw scenes 0 to ``num_scenes`` - 1, or read those that this has drawn before.

    Args:
        folder: of the files; it is made.
        draw: a chunk of scenes; picklable.
        styles: of the scenes.
        seed: of the scenes.
        num_scenes: at least 1.
        num_workers: processes.
        variant: names what else the arrays depend on.

    Yields:
        Every chunk's numbers and arrays, in order, once all are drawn.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [
        range(first, min(first + SCENES_PER_CHUNK, num_scenes)) for first in range(0, num_scenes, SCENES_PER_CHUNK)
    ]
    # Chunks of other styles or by an older renderer are left alone, not read.
    name = f"drawing{DRAWING}_styles{zlib.crc32(repr(tuple(styles)).encode()):08x}_seed{seed}{variant}"
    write = functools.partial(_write_chunk, folder / name, draw, styles, seed)
    progress = functools.partial(tqdm, total=len(chunks), desc="drawing scenes", unit="chunk")
    if num_workers <= 1 or len(chunks) == 1:
        files = list(progress(map(write, chunks)))
    else:
        # Spawned, not forked: torch has started its threads here.
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            files = list(progress(pool.imap(write, chunks)))
    for indices, file in zip(chunks, files, strict=True):
        with np.load(file) as stored:
            yield indices, dict(stored)


def _write_chunk(stem: Path, draw: Draw, styles: Sequence[Style], seed: int, indices: range) -> Path:
    """The chunk's file, drawn now or before."""
    file = stem.with_name(f"{stem.name}_{indices.start:06d}-{indices.stop:06d}.npz")
    if not file.is_file():
        arrays: dict[str, Any] = draw(styles, seed, indices)
        with atomic_file(file) as part_file, part_file.open("wb") as stream:
            np.savez(stream, **arrays)
    return file
