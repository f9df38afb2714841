"""Captioned streets and crops of them in numbers, drawn once and kept as files: what the miniature CLIP is shown."""

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

KEPT = (160, 320)
CROP = 64

_KINDS = ("scenes", "crops")


@dataclass(frozen=True)
class Captioned:
    """Pictures with captions.

    Attributes:
        images: (N, h, w, 3) uint8 RGB.
        captions: N sentences.
        labels: (N,) uint8, the class each is about; 255 for whole scenes.
        scenes: (N,) int64, in which scene of the pool each was found.
        boxes: (N, 4) int64, where: left, top, right, bottom in pixels of `chunks.SCENE`; all 0 for whole scenes.
    """

    images: Pixels
    captions: list[str]
    labels: Pixels
    scenes: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.captions)


def draw_captioned(
    styles: Sequence[Style], seed: int, indices: range, crops_per_scene: int
) -> tuple[Captioned, Captioned]:
    """Draw scenes by number; each has a style of its own, chosen by its number.

    Returns:
        Whole scenes, `KEPT` pixels, and their crops, (64, 64).
    """
    scenes, captions, crops, homes = [], [], [], []
    for index in indices:
        rendered, scene, rng = draw_scene(styles, seed, index)
        scenes.append(cv2.resize(rendered.image, KEPT[::-1], interpolation=cv2.INTER_AREA))
        captions.append(rendered.caption)
        found = captioned_crops(rendered, scene.when, crops_per_scene, CROP, rng)
        crops += found
        homes += [index] * len(found)
    whole = np.full(len(scenes), 255, np.uint8)
    numbers, nowhere = np.array(indices, np.int64), np.zeros((len(scenes), 4), np.int64)
    return (
        Captioned(np.stack(scenes), captions, whole, numbers, nowhere),
        Captioned(
            np.stack([crop.pixels for crop in crops]),
            [crop.caption for crop in crops],
            np.array([crop.label for crop in crops], np.uint8),
            np.array(homes, np.int64),
            np.array([crop.box for crop in crops], np.int64),
        ),
    )


def draw_pool(
    folder: Path, styles: Sequence[Style], seed: int, num_scenes: int, crops_per_scene: int, num_workers: int
) -> tuple[Captioned, Captioned]:
    """Draw ``num_scenes`` scenes in chunks under ``folder`` and read them all; chunks that are there are kept.

    Raises:
        OSError: the folder cannot be written.
    """
    draw = functools.partial(_arrays, crops_per_scene)
    drawn = draw_in_chunks(folder, draw, styles, seed, num_scenes, num_workers, f"_crops{crops_per_scene}")
    chunks = [arrays for _, arrays in drawn]
    scenes, crops = (_joined(kind, chunks) for kind in _KINDS)
    return scenes, crops


def _arrays(crops_per_scene: int, styles: Sequence[Style], seed: int, indices: range) -> Arrays:
    drawn = zip(_KINDS, draw_captioned(styles, seed, indices, crops_per_scene), strict=True)
    return {f"{kind}_{name}": np.asarray(value) for kind, part in drawn for name, value in vars(part).items()}


def _joined(kind: str, chunks: Sequence[Arrays]) -> Captioned:
    names = [field.name for field in dataclasses.fields(Captioned)]
    arrays = {name: np.concatenate([chunk[f"{kind}_{name}"] for chunk in chunks]) for name in names}
    return Captioned(captions=arrays.pop("captions").tolist(), **arrays)
