"""The description of a data set on disk: where its files lie under the data root, and what its labels mean."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS
from clouds.data.datasets.pairing import FilePattern, files_by_stem, pair_files
from clouds.data.datasets.record import Record
from clouds.data.encoding import LabelEncoding
from clouds.errors import UserError
from clouds.utils.atomic import write_atomically


def data_root() -> Path:
    """Return `$DETECTRON2_DATASETS`, or the folder `datasets` if it is not set, as an absolute path."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser().absolute()


@dataclass(frozen=True)
class DatasetSpec:
    """Location and labels of one data set.

    A pattern "<folder>/<prefix>*<suffix>" matches all files `<folder>/**/<prefix><stem><suffix>`. An image and a label
    map with the same stem are a pair, whatever sub-folders (cities, sequences, or none) the two lie in. Archives unpack
    to different folders, so several patterns may be given: the first one whose folder exists is used. A list
    `lists/<name>.txt` under the data root, see `read_list`, replaces the search.
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
    """Stems that do not belong to the data set."""
    encoding: LabelEncoding | None = None
    """Meaning of the values in the label maps; None for train ids."""
    classes: tuple[str, ...] = CITYSCAPES_CLASSES
    """Names by train id, synonyms separated by commas."""
    colors: tuple[tuple[int, int, int], ...] = CITYSCAPES_COLORS
    """RGB colors, 0 to 255, by train id."""

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
        """Return the path of the optional list of the data set's files."""
        return root / "lists" / f"{self.name}.txt"

    def load(self, root: Path) -> list[Record]:
        """Return the records of the data set, from its list if there is one, else by searching its folders.

        Raises:
            UserError: a folder or file is missing, see `pair_files`, or the list has an invalid line.
        """
        images, labels = self.image_pattern(root), self.label_pattern(root)
        if self.list_file(root).is_file():
            records = read_list(self.list_file(root), root, images)
        elif labels:
            records = pair_files(self.name, images, labels, self.omitted)
        else:
            files = files_by_stem(self.name, "images", images)
            records = [{"file_name": file, "image_id": stem} for stem, file in sorted(files.items())]
        if self.encoding:
            records = [{**record, "label_encoding": self.encoding} for record in records]
        return records


def read_list(file: Path, root: Path, images: FilePattern) -> list[Record]:
    """Read the records of a list file: one line `image<tab>label map` per pair, or `image` alone.

    Args:
        file: path of the list.
        root: data root, to which the paths in the list are relative.
        images: pattern that the image names must match.

    Raises:
        UserError: a line has another form.
    """
    records: list[Record] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        image, tab, label = line.partition("\t")
        stem = images.stem(Path(image).name)
        if stem is None or bool(tab) != bool(label):
            raise UserError(
                f"{file}, line {number}: {line!r} is no image ({images.glob}) with its label map after a "
                "tab; write the list again with: python tools/prepare_datasets.py --check --write-lists NAME."
            )
        record = {"file_name": str(root / image), "image_id": stem}
        records.append(record | ({"sem_seg_file_name": str(root / label)} if label else {}))
    return records


def write_list(file: Path, root: Path, records: Sequence[Record]) -> None:
    """Write a list file that `read_list` reads.

    Args:
        file: path of the list; its folder is created.
        root: data root, to which the written paths are relative.
        records: records to write.

    Raises:
        UserError: a file of a record is not below the data root.
    """
    lines = []
    for record in records:
        paths = [Path(record[key]) for key in ("file_name", "sem_seg_file_name") if key in record]
        if outside := [path for path in paths if not path.is_relative_to(root)]:
            raise UserError(f"{outside[0]} is not below {root}, so it cannot stand in a list of that data root.")
        lines.append("\t".join(path.relative_to(root).as_posix() for path in paths))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(f"{line}\n" for line in lines))


def _first_existing(root: Path, patterns: Sequence[str]) -> FilePattern:
    candidates = []
    for pattern in patterns:
        folder, _, names = pattern.rpartition("/")
        prefix, _, suffix = names.partition("*")
        candidates.append(FilePattern(root / folder, suffix, prefix))
    return next((candidate for candidate in candidates if candidate.folder.is_dir()), candidates[0])
