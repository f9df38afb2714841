"""Predictions as PNG files, so that they can be looked at and trained on."""

import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import IGNORE_LABEL
from clouds.utils.atomic import atomic_file


class LabelWriter:
    """Writes `<folder>/<image_id>_labelTrainIds.png` (one channel of train ids) and `<image_id>_color.png`.

    The names are those of Cityscapes, so `catalog.pair_by_stem` finds the first kind for the images they were made of.
    A slash in an image's id makes a sub-folder. Files are written whole or not at all, and replace older ones.
    """

    def __init__(self, folder: Path, colors: Sequence[Sequence[int]]) -> None:
        """
        Args:
            folder: of one data set; made when the first file is written.
            colors: RGB 0..255 by train id.
        """
        self.folder = folder
        palette = np.zeros((IGNORE_LABEL + 1, 3), dtype=np.uint8)
        palette[: len(colors)] = colors
        self.palette = palette.tobytes()

    def write(self, image_id: str, labels: npt.NDArray[np.uint8]) -> None:
        """Write both files of an image; `labels`: (H, W) uint8 train ids."""
        target = self.folder / file_name(image_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(labels)
        _save(picture, Path(f"{target}_labelTrainIds.png"))
        picture.putpalette(self.palette)  # the same bytes, shown in the classes' colours
        _save(picture, Path(f"{target}_color.png"))


def file_name(image_id: str) -> str:
    """A relative path that is an id's own: no two ids share one, and none leads out of the folder."""
    return "/".join(_quoted(part) for part in image_id.split("/"))


def _quoted(part: str) -> str:
    if not part.strip("."):  # "", "." and ".." mean folders
        return part.replace(".", "%2E") or "%"
    return urllib.parse.quote(part, safe=" !#$&'()+,;=@[]^{}")


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_file(path) as part_file:
        picture.save(part_file, format="PNG")
