"""Captioned streets of the size that the miniature Stable Diffusion paints, drawn once and kept as files."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from clouds.files import whole_file
from clouds.minicity.chunks import draw_in_chunks
from clouds.minicity.render import render
from clouds.minicity.scene import sample_scene, scene_rng
from clouds.minicity.style import Style

SCENE = (256, 512)
KEPT = (128, 256)
SCENES_PER_CHUNK = 200

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Captioned:
    """Pictures, (N, H, W, 3) uint8 RGB, with N captions."""

    images: Pixels
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def draw_captioned(styles: Sequence[Style], seed: int, indices: range) -> Captioned:
    """Draw scenes by number, `KEPT` pixels; each has a style of its own, chosen by its number."""
    images, captions = [], []
    for index in indices:
        style = styles[int(np.random.default_rng([seed, index]).integers(len(styles)))]
        rng = scene_rng(style, seed, index)
        rendered = render(sample_scene(style, rng, SCENE), rng)
        images.append(cv2.resize(rendered.image, KEPT[::-1], interpolation=cv2.INTER_AREA))
        captions.append(rendered.caption)
    return Captioned(np.stack(images), captions)


def draw_captioned_pool(
    folder: Path, styles: Sequence[Style], seed: int, num_scenes: int, num_workers: int
) -> Captioned:
    """Draw ``num_scenes`` scenes in chunks under ``folder`` and read them all; chunks that are there are kept.

    Raises:
        OSError: the folder cannot be written.
    """
    write = functools.partial(_write_chunk, folder, tuple(styles), seed)
    chunks = draw_in_chunks(folder, num_scenes, SCENES_PER_CHUNK, num_workers, write)
    images, captions = np.empty((num_scenes, *KEPT, 3), np.uint8), []
    for indices, file in chunks:
        with np.load(file) as stored:
            images[indices.start : indices.stop] = stored["images"]
            captions += json.loads(str(stored["captions"]))
    return Captioned(images, captions)


def _write_chunk(folder: Path, styles: Sequence[Style], seed: int, indices: range) -> Path:
    file = folder / f"seed{seed}_{indices.start:06d}-{indices.stop:06d}.npz"
    if not file.is_file():
        drawn = draw_captioned(styles, seed, indices)
        with whole_file(file) as part_file, part_file.open("wb") as stream:
            np.savez(stream, images=drawn.images, captions=np.array(json.dumps(drawn.captions)))
    return file
