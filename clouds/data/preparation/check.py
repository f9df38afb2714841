"""What is wrong with a data set on disk: every file looked at, every fault in a sentence; and the memory of it."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.datasets.builtin import DATASET_GROUPS
from clouds.data.datasets.catalog import dataset_specs
from clouds.data.datasets.pairing import FilePattern, exclude_label_maps, files_by_stem, list_files
from clouds.data.datasets.record import Record
from clouds.data.datasets.spec import DatasetSpec, data_root
from clouds.data.encoding import check_same_size, read_train_ids
from clouds.data.preparation.converters import Counts, count_classes
from clouds.errors import UserError
from clouds.utils.atomic import write_atomically
from clouds.utils.images import IMAGE_SUFFIXES, check_png_end, read_image
from clouds.utils.processes import parallel_map

logger = logging.getLogger(__name__)

_RULES = 1
"""Raised whenever a check finds something that an earlier one did not: what was remembered is then checked again."""


@dataclass
class CheckResult:
    """What a data set has, and what is wrong with it."""

    spec: DatasetSpec
    root: Path
    num_images: int = 0
    """Image files, omitted ones included."""
    records: list[Record] = field(default_factory=list)
    """Pairs; images alone in a data set without labels."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Pictures by (height, width)."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Of the readable label maps, by train id."""
    counts: dict[Path, Counts] = field(default_factory=dict)
    """The same of each label map."""
    problems: list[str] = field(default_factory=list)

    @property
    def missing(self) -> bool:
        """Whether there is nothing of the set."""
        return not any(pattern.folder.is_dir() for pattern in self.spec.patterns(self.root))


def check_dataset(spec: DatasetSpec, root: Path, *, processes: int = 1) -> CheckResult:
    """Look at every picture and label map of a set: paired, whole, of one size, and with labels that mean something.

    Args:
        spec: the set.
        root: the data root.
        processes: how many read at a time.
    """
    found = CheckResult(spec, root)
    if found.missing:
        return found
    if spec.list_file(root).is_file():
        try:
            found.records = spec.load(root)
        except UserError as error:
            found.problems.append(str(error))
        found.num_images = len(found.records)
    else:
        _search(found)
        if spec.num_pairs is not None and len(found.records) != spec.num_pairs:
            found.problems.append(
                f"{spec.name} has {len(found.records):,} pairs of image and label map; the complete set has "
                f"{spec.num_pairs:,}."
            )
    processes = max(1, min(processes, len(found.records) // 64))  # to start one takes longer than to read a few
    look = partial(_look, len(spec.classes))
    for record, (size, pixels, problems) in parallel_map(look, found.records, processes=processes, title=spec.name):
        found.sizes.update([size] if size else [])
        found.problems += problems
        if pixels is not None:
            found.pixels += pixels
            classes = np.flatnonzero(pixels[: len(spec.classes)])
            found.counts[Path(record["sem_seg_file_name"])] = {int(c): int(pixels[c]) for c in classes}
    return found


def find_problems(spec: DatasetSpec, root: Path, *, processes: int = 1) -> list[str]:
    """What `check` finds wrong with a set: remembered under `checks/` in the data root until one of its files changes.

    Args: see `check`.
    """
    memory = root / "checks" / f"{spec.name}.json"
    print_before = dataset_fingerprint(spec, root)
    try:
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["fingerprint"] == print_before:
            problems: list[str] = remembered["problems"]
            return problems
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or none that can be used: looked at anew
    logger.info("%s: every file is read once, and again only when one has changed", spec.name)
    found = check_dataset(spec, root, processes=processes)
    save_result(found, print_before)
    return found.problems


def describe_first_problem(names: Sequence[str], custom: Sequence[str] = (), *, processes: int = 1) -> str:
    """The beginning of a sentence about the first of these sets that has a problem; "" if none has.

    Sets that are not there at all, and those that others register, are left to who loads them.

    Args:
        names: of sets, or of several together.
        custom: YAML files that describe more of them.
        processes: how many read at a time.
    """
    root = data_root()
    wanted = {part for name in names for part in DATASET_GROUPS.get(name, (name,))}
    for spec in dataset_specs(custom):
        if spec.name in wanted and all(pattern.folder.is_dir() for pattern in spec.patterns(root)):
            problems = find_problems(spec, root, processes=processes)
            if problems:
                return (
                    f"The data set {spec.name} has {len(problems)} problem(s), first: {problems[0].rstrip('.')}. "
                    f"See them all with `python tools/prepare_datasets.py --check {spec.name}` and mend them"
                )
    return ""


def save_result(found: CheckResult, fingerprint_before: str) -> None:
    """Write what `find_problems` reads; where nothing may be written, say so and do without."""
    memory = found.root / "checks" / f"{found.spec.name}.json"
    content = {"fingerprint": fingerprint_before, "pairs": len(found.records), "problems": found.problems}
    try:
        memory.parent.mkdir(exist_ok=True)
        write_atomically(memory, json.dumps(content, indent=2, ensure_ascii=False))
    except OSError as error:
        logger.warning("%s cannot be written (%s): the set will be checked again next time", memory, error.strerror)


def dataset_fingerprint(spec: DatasetSpec, root: Path) -> str:
    """Another one once a file of the set has come, gone or changed (in size or time), or the set is described anew."""
    digest = hashlib.sha256(repr((_RULES, spec)).encode())
    list_file = spec.list_file(root)
    if list_file.is_file():
        digest.update(list_file.read_bytes())
    for pattern in spec.patterns(root):
        entries = []
        try:
            for path in list_files(spec.name, pattern.folder):
                if path.endswith((pattern.suffix, *IMAGE_SUFFIXES)):
                    state = os.lstat(path)
                    entries.append(f"{path} {state.st_size} {state.st_mtime_ns} {state.st_mode}")
        except UserError as error:
            entries.append(str(error))
        digest.update("\n".join(sorted(entries)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _search(found: CheckResult) -> None:
    """Fill in the pairs that the folders have; an image or label map without the other is a problem."""
    spec = found.spec
    images, *rest = spec.patterns(found.root)
    image_files = _listed(found, "images", images)
    label_files = _listed(found, "label maps", rest[0]) if rest else {}
    image_files = exclude_label_maps(image_files, label_files)
    found.num_images = len(image_files)
    if image_files:
        found.problems += _strays(spec.name, images, set(label_files.values()))
    image_files = {stem: file for stem, file in image_files.items() if stem not in spec.omitted}
    if not rest:
        found.records = [{"file_name": file, "image_id": stem} for stem, file in sorted(image_files.items())]
    if not image_files or not label_files:  # said already, and not once more for each of the others
        return
    (labels,) = rest
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


def _listed(found: CheckResult, what: str, pattern: FilePattern) -> dict[str, str]:
    try:
        return files_by_stem(found.spec.name, what, pattern)
    except UserError as error:
        found.problems.append(str(error))
        return {}


def _strays(name: str, images: FilePattern, label_files: set[str]) -> list[str]:
    """Pictures among the images that are not called as images are."""
    return [
        f"{path} is a picture among the images, but images are called {images.glob} here: move it away."
        for path in sorted(list_files(name, images.folder))
        if path.lower().endswith(IMAGE_SUFFIXES) and images.stem(Path(path).name) is None and path not in label_files
    ]


def _look(num_classes: int, record: Record) -> tuple[tuple[int, int] | None, npt.NDArray[np.int64] | None, list[str]]:
    """(height, width) of the picture, pixels by train id of the label map, and what is wrong."""
    path, problems = record["file_name"], list[str]()
    image = label = None
    try:
        image = read_image(path)
        check_png_end(path)
        with Image.open(path) as file:
            if file.mode in ("1", "L", "P", "I;16"):
                problems.append(
                    f"{path} has one channel ({file.mode}), not three colours: a label map in the place of an image?"
                )
    except UserError as error:
        problems.append(str(error))
    if "sem_seg_file_name" in record:
        try:
            label = read_train_ids(record, num_classes)
            check_png_end(record["sem_seg_file_name"], "label map")
            if image is not None:
                check_same_size(image, path, label, record["sem_seg_file_name"])
        except UserError as error:
            problems.append(str(error))
    size = None if image is None else (image.height, image.width)
    return size, None if label is None else count_classes(label), problems
