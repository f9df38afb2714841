"""What is wrong with a data set on disk: every file looked at, every fault in a sentence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.catalog import Folders, files_by_stem
from clouds.data.converters import count_classes
from clouds.data.files import check_same_size, read_image, read_label
from clouds.data.labels import CITYSCAPES_CLASSES
from clouds.data.parallel import each
from clouds.errors import UserError


@dataclass
class Findings:
    """What a data set has, and what is wrong with it."""

    name: str
    images: Path
    labels: Path
    size: int
    """Pairs that a complete download has."""
    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    """Picture and label map."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Pictures by (height, width)."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Of the readable label maps, by train id."""
    problems: list[str] = field(default_factory=list)

    @property
    def missing(self) -> bool:
        """Whether there is nothing of the set."""
        return not self.images.is_dir() and not self.labels.is_dir()


def check(folders: Folders, root: Path, *, processes: int = 1) -> Findings:
    """Look at every picture and label map of a set: paired, whole, of one size, and with train ids.

    Args:
        folders: the set.
        root: the data root.
        processes: how many read at a time.
    """
    images, image_suffix, labels, label_suffix = folders.place(root)
    found = Findings(folders.name, images, labels, folders.size)
    if found.missing:
        return found
    image_files = _listed(found, "images", images, image_suffix)
    label_files = _listed(found, "label maps", labels, label_suffix)
    stems = sorted(image_files.keys() | label_files.keys() - folders.omitted)
    for stem in (stem for stem in stems if stem not in folders.omitted):
        if stem not in label_files:
            found.problems.append(f"{image_files[stem]} has no label map {stem}{label_suffix} under {labels}.")
        elif stem not in image_files:
            found.problems.append(f"{label_files[stem]} has no image {stem}{image_suffix} under {images}.")
        else:
            found.pairs.append((Path(image_files[stem]), Path(label_files[stem])))
    if len(found.pairs) != folders.size:
        found.problems.append(
            f"{folders.name} has {len(found.pairs):,} pairs of image and label map; the complete set has {folders.size:,}."
        )
    look = partial(_look, len(CITYSCAPES_CLASSES))
    for _, (size, pixels, problems) in each(look, found.pairs, processes=processes, title=folders.name):
        found.sizes.update([size] if size else [])
        found.pixels += pixels
        found.problems += problems
    return found


def write_list(file: Path, root: Path, pairs: Sequence[tuple[Path, Path]]) -> None:
    """Write picture and label map, relative to the data root and with a tab between them, a pair a line."""
    lines = ["\t".join(path.relative_to(root).as_posix() for path in pair) for pair in pairs]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _listed(found: Findings, what: str, folder: Path, suffix: str) -> dict[str, str]:
    try:
        return files_by_stem(found.name, what, folder, suffix)
    except UserError as error:
        found.problems.append(str(error))
        return {}


def _look(num_classes: int, pair: tuple[Path, Path]) -> tuple[tuple[int, int] | None, npt.NDArray[np.int64], list[str]]:
    """(height, width) of the picture, pixels by train id, and what is wrong."""
    image_path, label_path = (str(path) for path in pair)
    problems: list[str] = []
    image: Image.Image | None = None
    label: npt.NDArray[np.uint8] | None = None
    try:
        image = read_image(image_path)
        with Image.open(image_path) as file:
            if file.mode in ("1", "L", "P", "I;16"):
                problems.append(
                    f"{image_path} has one channel ({file.mode}), not three colours: a label map in the place of an image?"
                )
    except UserError as error:
        problems.append(str(error))
    try:
        label = read_label(label_path, num_classes)
    except UserError as error:
        problems.append(str(error))
    if image is not None and label is not None:
        try:
            check_same_size(image, image_path, label, label_path)
        except UserError as error:
            problems.append(str(error))
    size = None if image is None else (image.height, image.width)
    return size, np.zeros(256, np.int64) if label is None else count_classes(label), problems
