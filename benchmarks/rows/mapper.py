"""A training sample: image and label map from their files, augmented. Each side reads its own label maps."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clouds.config import get_config
from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID
from clouds.data.loading.mappers import TrainMapper
from clouds.data.preparation.formats import find_gta
from rows import FORMULATION, OURS, Sizes
from rows.converters import our_conversion
from rows.published_data import published_conversion, published_sample, write_gta5


def prepare(sizes: Sizes) -> dict[str, Any]:
    """Write images and label files."""
    write_gta5(Path(sizes["folder"]), sizes["files"], (sizes["height"], sizes["width"]))
    return {}


def build(side: str, sizes: Sizes) -> Callable[[], Any]:
    """Return a call that makes a sample of each file. Both sides draw equal random numbers in each repetition.

    Ours is the uint8 label map and its classes, from which the device makes the masks; the published sample has them.
    """
    cv2.setNumThreads(1)
    cfg, root = get_config(), Path(sizes["folder"])
    files, encoding = find_gta(root, "labels")
    records = []
    for source in sorted(files):
        target = root / f"{side}-{source.name}"
        if side == OURS:
            our_conversion(encoding, (source, target))
        else:
            published_conversion(CITYSCAPES_ID_TO_TRAIN_ID, (source, target))
        records.append({"file_name": str(root / "images" / source.name), "sem_seg_file_name": str(target)})
    sample = TrainMapper(cfg) if side == OURS else partial(published_sample, cfg.INPUT)
    numbers = itertools.count()
    return lambda: [as_compared(sample(record, np.random.default_rng(next(numbers)))) for record in records]


def as_compared(sample: dict[str, Any]) -> dict[str, Any]:
    """Return what both samples have, and the classes."""
    classes = sample["sem_seg_classes"] if "sem_seg_classes" in sample else sample["classes"]
    return {"image": sample["image"], "sem_seg": sample["sem_seg"], "classes": [int(each) for each in classes]}


SIDES = {side: partial(build, side) for side in (OURS, FORMULATION)}


def check(results: Mapping[str, Any]) -> str:
    """Compare samples: images up to the rounding of resampling and jitter, label maps except for some borders."""
    distance, shared = 0.0, 1.0
    for ours, theirs in zip(results[OURS], results[FORMULATION], strict=True):
        distance = max(distance, float(np.abs(ours["image"].astype(float) - theirs["image"]).mean()))
        shared = min(shared, float((ours["sem_seg"] == theirs["sem_seg"]).mean()))
    assert distance < 3, f"the images differ by {distance:.1f} grey levels"
    assert shared > 0.97, f"only {shared:.1%} of the labels agree"
    return f"images differ by {distance:.1f} of 255 (limit 3), {shared:.1%} of the labels agree (limit 97 %)"
