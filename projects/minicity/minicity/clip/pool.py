"""Captioned scenes and crops: the training data of the miniature CLIP, drawn once and stored as files."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from minicity.clip.crops import captioned_crops
from minicity.world.pool import Arrays, Pixels, draw_in_chunks, draw_scene
from minicity.world.style import Style

STORED_SIZE = (160, 320)
"""Size (H, W) at which whole scenes are stored, in pixels."""
CROP_SIZE = 64
"""Side of the crops in pixels."""

_KINDS = ("scenes", "crops")


@dataclass(frozen=True)
class CaptionedImages:
    """Whole scenes or crops with their captions.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        captions: N sentences.
        labels: (N,) uint8, class that the caption names first; 255 for whole scenes.
        scenes: (N,) int64, index of the scene in the pool.
        boxes: (N, 4) int64, left, top, right and bottom in the scene, in pixels of `minicity.world.pool.SCENE`; zeros
            for whole scenes.
    """

    images: Pixels
    captions: list[str]
    labels: Pixels
    scenes: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.captions)


def draw_scenes_and_crops(
    styles: Sequence[Style], seed: int, indices: range, crops_per_scene: int
) -> tuple[CaptionedImages, CaptionedImages]:
    """Draw scenes with these indices, each in a style that its index chooses.

    Returns:
        The whole scenes at `STORED_SIZE`, and their crops, `CROP_SIZE` pixels a side.
    """
    scenes, captions, crops, owners = [], [], [], []
    for index in indices:
        rendered, scene, rng = draw_scene(styles, seed, index)
        scenes.append(cv2.resize(rendered.image, STORED_SIZE[::-1], interpolation=cv2.INTER_AREA))
        captions.append(rendered.caption)
        found = captioned_crops(rendered, scene.when, crops_per_scene, CROP_SIZE, rng)
        crops += found
        owners += [index] * len(found)
    no_label, no_box = np.full(len(scenes), 255, np.uint8), np.zeros((len(scenes), 4), np.int64)
    return (
        CaptionedImages(np.stack(scenes), captions, no_label, np.array(indices, np.int64), no_box),
        CaptionedImages(
            np.stack([crop.pixels for crop in crops]),
            [crop.caption for crop in crops],
            np.array([crop.label for crop in crops], np.uint8),
            np.array(owners, np.int64),
            np.array([crop.box for crop in crops], np.int64),
        ),
    )


def draw_pool(
    folder: Path, styles: Sequence[Style], seed: int, num_scenes: int, crops_per_scene: int, num_workers: int
) -> tuple[CaptionedImages, CaptionedImages]:
    """Draw the pool in chunks under `folder`, or read the chunks that exist.

    Returns:
        Whole scenes and crops, as in `draw_scenes_and_crops`.

    Raises:
        OSError: the folder cannot be written.
    """
    draw = functools.partial(_arrays, crops_per_scene)
    drawn = draw_in_chunks(folder, draw, styles, seed, num_scenes, num_workers, f"_crops{crops_per_scene}")
    chunks = [arrays for _, arrays in drawn]
    scenes, crops = (_joined(kind, chunks) for kind in _KINDS)
    return scenes, crops


def _arrays(crops_per_scene: int, styles: Sequence[Style], seed: int, indices: range) -> Arrays:
    drawn = zip(_KINDS, draw_scenes_and_crops(styles, seed, indices, crops_per_scene), strict=True)
    return {f"{kind}_{name}": np.asarray(value) for kind, part in drawn for name, value in vars(part).items()}


def _joined(kind: str, chunks: Sequence[Arrays]) -> CaptionedImages:
    names = [field.name for field in dataclasses.fields(CaptionedImages)]
    arrays = {name: np.concatenate([chunk[f"{kind}_{name}"] for chunk in chunks]) for name in names}
    return CaptionedImages(captions=arrays.pop("captions").tolist(), **arrays)
