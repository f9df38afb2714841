"""Captioned streets and crops of them in numbers, drawn once and kept as files: what the miniature CLIP is shown."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from clouds.files import whole_file
from clouds.minicity.chunks import draw_in_chunks
from clouds.minicity.crops import captioned_crops
from clouds.minicity.render import render
from clouds.minicity.scene import sample_scene, scene_rng
from clouds.minicity.style import Style

SCENE = (256, 512)
KEPT = (160, 320)
CROP = 64
SCENES_PER_CHUNK = 200

Pixels = npt.NDArray[np.uint8]
_KINDS = ("scenes", "crops")
_ARRAYS = ("images", "labels", "scenes", "boxes")


@dataclass(frozen=True)
class Captioned:
    """Pictures with captions.

    Attributes:
        images: (N, h, w, 3) uint8 RGB.
        captions: N sentences.
        labels: (N,) uint8, the class each is about; 255 for whole scenes.
        scenes: (N,) int64, in which scene of the pool each was found.
        boxes: (N, 4) int64, where: left, top, right, bottom in pixels of `SCENE`; all 0 for whole scenes.
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
        style = styles[int(np.random.default_rng([seed, index]).integers(len(styles)))]
        rng = scene_rng(style, seed, index)
        scene = sample_scene(style, rng, SCENE)
        rendered = render(scene, rng)
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
    write = functools.partial(_write_chunk, folder, tuple(styles), seed, crops_per_scene)
    chunks = draw_in_chunks(folder, num_scenes, SCENES_PER_CHUNK, num_workers, write)
    scenes, crops = zip(*(_read_chunk(file) for _, file in chunks), strict=True)
    return _joined(scenes), _joined(crops)


def _joined(parts: Sequence[Captioned]) -> Captioned:
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return Captioned(captions=[caption for part in parts for caption in part.captions], **arrays)


def _write_chunk(folder: Path, styles: Sequence[Style], seed: int, crops_per_scene: int, indices: range) -> Path:
    file = folder / f"seed{seed}_{indices.start:06d}-{indices.stop:06d}_{crops_per_scene}.npz"
    if not file.is_file():
        arrays: dict[str, Any] = {}
        for kind, part in zip(_KINDS, draw_captioned(styles, seed, indices, crops_per_scene), strict=True):
            arrays |= {f"{kind}_{name}": getattr(part, name) for name in _ARRAYS}
            arrays[f"{kind}_captions"] = np.array(json.dumps(part.captions))
        with whole_file(file) as part_file, part_file.open("wb") as stream:
            np.savez(stream, **arrays)
    return file


def _read_chunk(file: Path) -> tuple[Captioned, Captioned]:
    with np.load(file) as stored:
        scenes, crops = (
            Captioned(
                captions=json.loads(str(stored[f"{kind}_captions"])),
                **{name: stored[f"{kind}_{name}"] for name in _ARRAYS},
            )
            for kind in _KINDS
        )
    return scenes, crops
