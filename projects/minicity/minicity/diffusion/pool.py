"""Captioned scenes: the training data of the miniature Stable Diffusion, drawn once and stored as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from minicity.world.pool import Arrays, Pixels, draw_in_chunks, draw_scene
from minicity.world.style import Style

STORED_SIZE = (128, 256)
"""Size (H, W) at which scenes are stored, in pixels: that of painted images."""


@dataclass(frozen=True)
class CaptionedScenes:
    """Scenes with their captions.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        captions: N sentences.
    """

    images: Pixels
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def draw_captioned_scenes(styles: Sequence[Style], seed: int, indices: range) -> CaptionedScenes:
    """Draw scenes with these indices at `STORED_SIZE`, each in a style that its index chooses."""
    images, captions = [], []
    for index in indices:
        rendered, _, _ = draw_scene(styles, seed, index)
        images.append(cv2.resize(rendered.image, STORED_SIZE[::-1], interpolation=cv2.INTER_AREA))
        captions.append(rendered.caption)
    return CaptionedScenes(np.stack(images), captions)


def draw_captioned_pool(
    folder: Path, styles: Sequence[Style], seed: int, num_scenes: int, num_workers: int
) -> CaptionedScenes:
    """Draw the pool in chunks under `folder`, or read the chunks that exist.

    Raises:
        OSError: the folder cannot be written.
    """
    images, captions = np.empty((num_scenes, *STORED_SIZE, 3), np.uint8), []
    for indices, arrays in draw_in_chunks(folder, _arrays, styles, seed, num_scenes, num_workers):
        images[indices.start : indices.stop] = arrays["images"]
        captions += arrays["captions"].tolist()
    return CaptionedScenes(images, captions)


def _arrays(styles: Sequence[Style], seed: int, indices: range) -> Arrays:
    drawn = draw_captioned_scenes(styles, seed, indices)
    return {"images": drawn.images, "captions": np.array(drawn.captions)}
