"""The description of a data set on disk: where its files lie under the data root, and what its labels mean."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS
from clouds.data.datasets.lists import read_list
from clouds.data.datasets.pairing import files_by_id, pair_files
from clouds.data.datasets.patterns import FilePattern
from clouds.data.datasets.record import Record
from clouds.data.encoding import LabelEncoding
from clouds.utils.paths import user_path

_MAX_NAME = 100


def data_root() -> Path:
    """Return `$DETECTRON2_DATASETS`, or the folder `datasets` if it is not set, as an absolute path."""
    return user_path(os.environ.get("DETECTRON2_DATASETS") or "datasets").absolute()


@dataclass(frozen=True)
class DatasetSpec:
    """Location and labels of one data set.

    `clouds.data.datasets.patterns` has the rules of the patterns. An image and a label map with the same id are a pair.
    Archives unpack to different folders, so several patterns may be given: the first one whose folder exists is used. A
    list `lists/<name>.txt` under the data root, see `read_list`, replaces the search.

    Raises:
        ValueError: the name is invalid, see `name_fault`.
    """

    name: str
    """Name in `DATASETS.TRAIN` and `DATASETS.TEST`."""
    images: tuple[str, ...]
    """Patterns of the images, relative to the data root."""
    labels: tuple[str, ...]
    """Patterns of the label maps, relative to the data root. Empty for a data set without labels."""
    num_pairs: int | None = None
    """Number of pairs in the complete data set; None if unknown."""
    num_downloaded: int | None = None
    """Number of images in the download, where some of them are omitted; None if all are used."""
    converter: str | None = None
    """Key in `converters.FORMATS` of the converter that makes the label maps; None if they need no conversion."""
    omitted: frozenset[str] = frozenset()
    """Ids that do not belong to the data set."""
    list_path: str | None = None
    """Path of a list that comes with the data set, relative to the data root; its lines are relative to the folder of
    `images`. None if the folders are searched."""
    encoding: LabelEncoding | None = None
    """Meaning of the values in the label maps; None for train ids."""
    classes: tuple[str, ...] = CITYSCAPES_CLASSES
    """Names by train id, synonyms separated by commas."""
    colors: tuple[tuple[int, int, int], ...] = CITYSCAPES_COLORS
    """RGB colors, 0 to 255, by train id."""

    domain: str = ""
    """Name that the splits of one data set share; empty for the rule of `catalog.domain`."""

    def __post_init__(self) -> None:
        """Check the name."""
        if fault := name_fault(self.name):
            raise ValueError(f"name {fault}")

    def image_pattern(self, root: Path) -> FilePattern:
        """Return the pattern of the images: the first one whose folder exists, or the first one."""
        return _first_existing(root, self.images)

    def label_pattern(self, root: Path) -> FilePattern | None:
        """Return the pattern of the label maps, or None for a data set without labels."""
        return _first_existing(root, self.labels) if self.labels else None

    def patterns(self, root: Path) -> list[FilePattern]:
        """Return the pattern of the images and, if there are labels, the pattern of the label maps."""
        labels = self.label_pattern(root)
        return [self.image_pattern(root)] + ([labels] if labels else [])

    def folder(self, root: Path) -> Path:
        """Return the folder that holds both images and label maps."""
        return Path(os.path.commonpath([pattern.folder for pattern in self.patterns(root)]))

    def statistics_folder(self, root: Path) -> Path:
        """Return the folder of the class statistics.

        It is the data set's own folder if its labels are converted, else `statistics/<name>` under the data root.
        """
        return self.folder(root) if self.converter else root / "statistics" / self.name

    def list_file(self, root: Path) -> Path:
        """Return the path of the optional list in the data root, which replaces the data set's own definition."""
        return root / "lists" / f"{self.name}.txt"

    def used_list(self, root: Path) -> tuple[Path, Path] | None:
        """Return the list that defines the data set and the folder of its paths; None if the folders are searched."""
        if self.list_file(root).is_file():
            return self.list_file(root), root
        return (root / self.list_path, self.image_pattern(root).folder) if self.list_path else None

    def load(self, root: Path) -> list[Record]:
        """Return the records of the data set, from its list if there is one, else by searching its folders.

        Raises:
            UserError: a folder or file is missing, see `pair_files`, or the list has an invalid line.
        """
        images, labels = self.image_pattern(root), self.label_pattern(root)
        if used := self.used_list(root):
            records = read_list(*used, images)
        elif labels:
            records = pair_files(self.name, images, labels, self.omitted)
        else:
            files = files_by_id(self.name, "images", images)
            records = [{"file_name": file, "image_id": image_id} for image_id, file in sorted(files.items())]
        if self.encoding:
            records = [{**record, "label_encoding": self.encoding} for record in records]
        return records


def name_fault(name: str) -> str | None:
    """Return what is wrong with the name of a data set, the end of a sentence, or None if it is valid.

    Files and folders are named after data sets, so a name must not lead out of a folder.
    """
    if re.fullmatch(r"\w[\w.-]*", name) and len(name) <= _MAX_NAME:
        return None
    return (
        f"is {name[:_MAX_NAME]!r}, which must be 1 to {_MAX_NAME} letters, digits, _, - and ., and begin with no - or ."
    )


def _first_existing(root: Path, patterns: Sequence[str]) -> FilePattern:
    candidates = [FilePattern.parse(root, pattern) for pattern in patterns]
    return next((candidate for candidate in candidates if candidate.folder.is_dir()), candidates[0])
