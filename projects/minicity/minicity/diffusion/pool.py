"""Captioned streets of the size that the miniature Stable Diffusion paints, drawn once and kept as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from minicity.world.pool import Arrays, Pixels, draw_in_chunks, draw_scene
from minicity.world.style import Style

KEPT = (128, 256)


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
        rendered, _, _ = draw_scene(styles, seed, index)
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
    images, captions = np.empty((num_scenes, *KEPT, 3), np.uint8), []
    for indices, arrays in draw_in_chunks(folder, _arrays, styles, seed, num_scenes, num_workers):
        images[indices.start : indices.stop] = arrays["images"]
        captions += arrays["captions"].tolist()
    return Captioned(images, captions)


def _arrays(styles: Sequence[Style], seed: int, indices: range) -> Arrays:
    drawn = draw_captioned(styles, seed, indices)
    return {"images": drawn.images, "captions": np.array(drawn.captions)}
