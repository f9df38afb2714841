"""Files of a data set: their pairs, names and number, without opening an image or a label map."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clouds.data.datasets.pairing import FilePattern, exclude_label_maps, files_by_stem, list_files
from clouds.data.datasets.record import Record
from clouds.data.datasets.spec import DatasetSpec
from clouds.errors import UserError
from clouds.utils.images import IMAGE_SUFFIXES

FILE_KEYS = {"file_name": "image", "sem_seg_file_name": "label map", "truth_file_name": "label map"}
"""Keys of a record that hold a path, and the kind of file."""


@dataclass
class Listing:
    """Files of a data set, and the problems with their names and number."""

    records: list[Record] = field(default_factory=list)
    """Pairs; images alone in a data set without labels."""
    num_images: int = 0
    """Number of image files, omitted ones included."""
    problems: list[str] = field(default_factory=list)
    """One sentence per problem."""


class DatasetFiles(ABC):
    """Files of one data set."""

    spec: DatasetSpec | None = None
    """Description of the data set; None if the catalog knows only its records."""

    def __init__(self, name: str, classes: Sequence[str], root: Path) -> None:
        """
        Args:
            name: name of the data set.
            classes: class names by train id.
            root: data root.
        """
        self.name = name
        self.classes = tuple(classes)
        self.root = root

    @abstractmethod
    def exists(self) -> bool:
        """Whether any of the data set is there."""

    @abstractmethod
    def scan(self) -> Listing:
        """List the files and check their names, pairs and number."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the data set's description and of the paths, sizes and times of its files."""


class DescribedFiles(DatasetFiles):
    """Files of a data set that a `DatasetSpec` describes."""

    def __init__(self, spec: DatasetSpec, root: Path) -> None:
        super().__init__(spec.name, spec.classes, root)
        self.spec: DatasetSpec = spec

    def exists(self) -> bool:
        return any(pattern.folder.is_dir() for pattern in self.spec.patterns(self.root))

    def scan(self) -> Listing:
        spec = self.spec
        if spec.list_file(self.root).is_file():
            try:
                records = spec.load(self.root)
            except UserError as error:
                return Listing(problems=[str(error)])
            return Listing(records, len(records))
        found = _search(spec, self.root)
        if spec.num_pairs is not None and len(found.records) != spec.num_pairs:
            found.problems.append(
                f"{spec.name} has {len(found.records):,} pairs of image and label map; the complete set has "
                f"{spec.num_pairs:,}."
            )
        return found

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.spec).encode())
        list_file = self.spec.list_file(self.root)
        if list_file.is_file():
            digest.update(list_file.read_bytes())
        for pattern in self.spec.patterns(self.root):
            suffixes = (pattern.suffix, *IMAGE_SUFFIXES)
            try:
                paths = [path for path in list_files(self.name, pattern.folder) if path.endswith(suffixes)]
            except UserError as error:
                digest.update(str(error).encode())
            else:
                digest.update(_file_states(paths))
        return digest.hexdigest()


class RegisteredFiles(DatasetFiles):
    """Files of a data set that the catalog knows by its records: generated, or registered by a plug-in module."""

    def __init__(self, name: str, classes: Sequence[str], root: Path, records: Sequence[Record]) -> None:
        super().__init__(name, classes, root)
        self.records = records

    def exists(self) -> bool:
        return True

    def scan(self) -> Listing:
        return Listing([*self.records], len(self.records))

    def fingerprint(self) -> str:
        encodings = sorted({repr(record.get("label_encoding")) for record in self.records})
        digest = hashlib.sha256(repr((self.classes, encodings, [sorted(record) for record in self.records])).encode())
        digest.update(_file_states(record[key] for record in self.records for key in FILE_KEYS if key in record))
        return digest.hexdigest()


def missing_files(records: Sequence[Record]) -> list[str]:
    """Return a problem for each file of the records that does not exist."""
    return [
        f"The {kind} {record[key]} does not exist."
        for record in records
        for key, kind in FILE_KEYS.items()
        if key in record and not os.path.isfile(record[key])  # noqa: PTH113  (a Path per file costs more)
    ]


def _search(spec: DatasetSpec, root: Path) -> Listing:
    """Pair the files in the folders of a data set; an image or a label map without the other is a problem."""
    found = Listing()
    images, labels = spec.image_pattern(root), spec.label_pattern(root)
    image_files = _files(found, spec, "images", images)
    label_files = _files(found, spec, "label maps", labels) if labels else {}
    image_files = exclude_label_maps(image_files, label_files)
    found.num_images = len(image_files)
    if image_files:
        found.problems += _misnamed(spec.name, images, set(label_files.values()))
    image_files = {stem: file for stem, file in image_files.items() if stem not in spec.omitted}
    if labels is None:
        found.records = [{"file_name": file, "image_id": stem} for stem, file in sorted(image_files.items())]
        return found
    if not image_files or not label_files:  # reported already, and not once more for each file of the other kind
        return found
    for stem in sorted(image_files.keys() | label_files.keys() - spec.omitted):
        if stem not in label_files:
            expected = labels.glob.replace("*", stem)
            found.problems.append(f"{image_files[stem]} has no label map {expected} under {labels.folder}.")
        elif stem not in image_files:
            expected = images.glob.replace("*", stem)
            found.problems.append(f"{label_files[stem]} has no image {expected} under {images.folder}.")
        else:
            record = {"file_name": image_files[stem], "sem_seg_file_name": label_files[stem], "image_id": stem}
            found.records.append(record | ({"label_encoding": spec.encoding} if spec.encoding else {}))
    return found


def _files(found: Listing, spec: DatasetSpec, kind: str, pattern: FilePattern) -> dict[str, str]:
    try:
        return files_by_stem(spec.name, kind, pattern)
    except UserError as error:
        found.problems.append(str(error))
        return {}


def _misnamed(name: str, images: FilePattern, label_files: set[str]) -> list[str]:
    """Return a problem for each image in the folder of the images that does not match their pattern."""
    return [
        f"{path} is an image among the images, but images are called {images.glob} here: move it away."
        for path in sorted(list_files(name, images.folder))
        if path.lower().endswith(IMAGE_SUFFIXES) and images.stem(Path(path).name) is None and path not in label_files
    ]


def _file_states(paths: Iterable[str]) -> bytes:
    """Return sorted lines of path, size, time and mode; links are not followed."""
    lines = []
    for path in paths:
        try:
            state = os.lstat(path)
        except OSError as error:
            lines.append(f"{path} {error.strerror}")
        else:
            lines.append(f"{path} {state.st_size} {state.st_mtime_ns} {state.st_mode}")
    return "\n".join(sorted(lines)).encode("utf-8", "surrogateescape")
