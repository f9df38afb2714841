"""Files of a data set: their pairs, names and number, without opening an image or a label map."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType

from clouds.data.datasets.pairing import exclude_label_maps, find_files, list_files
from clouds.data.datasets.patterns import FilePattern
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
        if spec.used_list(self.root):
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
        try:
            if used := self.spec.used_list(self.root):
                digest.update(used[0].read_bytes())
                digest.update(_record_states(self.spec.load(self.root)))
            else:
                for pattern in self.spec.patterns(self.root):
                    digest.update(_file_states(self._relevant_files(pattern)))
        except (UserError, OSError) as error:
            digest.update(str(error).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _relevant_files(self, pattern: FilePattern) -> Iterator[str]:
        for path in list_files(self.name, pattern.folder, pattern.covers):
            if path.lower().endswith(IMAGE_SUFFIXES) or pattern.image_id(path) is not None:
                yield path


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
        digest = hashlib.sha256(repr((self.classes, [sorted(record) for record in self.records])).encode())
        encodings = {id(encoding): encoding for encoding in (record.get("label_encoding") for record in self.records)}
        for encoding in encodings.values():
            digest.update(_described(encoding).encode())
        digest.update(_record_states(self.records))
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
    found.num_images = len(image_files)
    try:
        image_files = exclude_label_maps(spec.name, image_files, label_files)
    except UserError as error:
        found.problems.append(str(error))
        return found
    found.num_images = len(image_files)
    if image_files:
        found.problems += _misnamed(spec.name, images, set(label_files.values()))
    image_files = {image_id: file for image_id, file in image_files.items() if image_id not in spec.omitted}
    if labels is None:
        found.records = [{"file_name": file, "image_id": image_id} for image_id, file in sorted(image_files.items())]
        return found
    if not image_files or not label_files:  # reported already, and not once more for each file of the other kind
        return found
    for image_id in sorted(image_files.keys() | label_files.keys() - spec.omitted):
        if image_id not in label_files:
            expected = labels.name_of(image_id)
            found.problems.append(f"{image_files[image_id]} has no label map {expected} under {labels.folder}.")
        elif image_id not in image_files:
            expected = images.name_of(image_id)
            found.problems.append(f"{label_files[image_id]} has no image {expected} under {images.folder}.")
        else:
            record = {
                "file_name": image_files[image_id],
                "sem_seg_file_name": label_files[image_id],
                "image_id": image_id,
            }
            found.records.append(record | ({"label_encoding": spec.encoding} if spec.encoding else {}))
    return found


def _files(found: Listing, spec: DatasetSpec, kind: str, pattern: FilePattern) -> dict[str, str]:
    try:
        files, problems = find_files(spec.name, kind, pattern)
    except UserError as error:
        files, problems = {}, [str(error)]
    found.problems += problems
    return files


def _misnamed(name: str, images: FilePattern, label_files: set[str]) -> list[str]:
    """Return a problem for each image in the folders of the images that does not match their pattern."""
    return [
        f"{path} is an image among the images, but images are called {images.names} here: rename it or "
        "move it away; or let the pattern match it, as *.{png,jpg} does in a YAML file."
        for path in sorted(list_files(name, images.folder, images.covers))
        if path.lower().endswith(IMAGE_SUFFIXES)
        and images.image_id(path) is None
        and path not in label_files
        and images.has_beside(path)
    ]


def _described(encoding: object) -> str:
    """Return what identifies an encoding; the representation of a function is another one in each process."""
    return f"{encoding.__module__}.{encoding.__qualname__}" if isinstance(encoding, FunctionType) else repr(encoding)


def _record_states(records: Sequence[Record]) -> bytes:
    return _file_states(record[key] for record in records for key in FILE_KEYS if key in record)


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
