"""Conversion of label files to label maps of train ids, with their statistics."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID, SYNTHIA_ID_TO_TRAIN_ID
from clouds.data.encoding import LabelEncoding
from clouds.data.preparation.converters import _convert_one
from clouds.data.preparation.formats import find_gta, find_synthia
from rows import FORMULATION, OURS, Sizes
from rows.published_data import published_conversion, write_gta5, write_synthia

FORMATS = {
    "gta5": (write_gta5, find_gta, "labels", CITYSCAPES_ID_TO_TRAIN_ID),
    "synthia": (write_synthia, find_synthia, "GT/LABELS", SYNTHIA_ID_TO_TRAIN_ID),
}


def prepare(sizes: Sizes) -> dict[str, Any]:
    """Write the label files."""
    write, *_ = FORMATS[sizes["data"]]
    write(Path(sizes["folder"]), sizes["files"], (sizes["height"], sizes["width"]))
    return {}


def build(side: str, sizes: Sizes) -> Callable[[], Any]:
    """Return the conversion of all files, which returns the statistics and the paths of the label maps."""
    cv2.setNumThreads(1)
    _, find, labels, table = FORMATS[sizes["data"]]
    root = Path(sizes["folder"])
    files, encoding = find(root, labels)
    convert = partial(our_conversion, encoding) if side == OURS else partial(published_conversion, table)
    # Each side writes where the other does not.
    pairs = [(source, root / f"{number}-{side}.png") for number, source in enumerate(sorted(files))]
    return lambda: {"counts": [convert(pair) for pair in pairs], "files": [str(target) for _, target in pairs]}


def our_conversion(encoding: LabelEncoding, pair: tuple[Path, Path]) -> dict[int, int]:
    result = _convert_one(encoding, True, pair)
    assert not isinstance(result, str), result
    return result[0]


SIDES = {side: partial(build, side) for side in (OURS, FORMULATION)}


def check(results: Mapping[str, Any]) -> str:
    """Compare statistics and label maps."""
    ours, theirs = results[OURS], results[FORMULATION]
    assert ours["counts"] == theirs["counts"], "the statistics differ"
    for pair in zip(ours["files"], theirs["files"], strict=True):
        first, second = (np.array(Image.open(file)) for file in pair)
        assert (first == second).all(), "the label maps differ"
    return "label maps and statistics are equal"
