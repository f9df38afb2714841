"""The check of data sets before training, quick or full.

The quick check lists files: names, pairs, counts. It decodes pairs only until it has seen a labelled pixel, which finds
what is wrong with all of them. The full check decodes every file; its result is saved under `checks/` in the data root
and holds until a file of the data set changes.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.d2 import MetadataCatalog
from clouds.data.classes import IGNORE_LABEL
from clouds.data.datasets.builtin import BUILTIN_DATASETS, DATASET_GROUPS
from clouds.data.datasets.catalog import dataset_specs, load_dataset
from clouds.data.datasets.generated import find_generated
from clouds.data.datasets.record import Record
from clouds.data.datasets.selection import whole_of
from clouds.data.datasets.spec import data_root
from clouds.data.encoding import check_same_size, find_missing_labels, read_train_ids
from clouds.data.preparation.class_statistics import ClassCounts, class_counts, count_values
from clouds.data.preparation.listing import DatasetFiles, DescribedFiles, RegisteredFiles, missing_files
from clouds.errors import UserError
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import check_png_end, read_image
from clouds.utils.json_files import parse_json
from clouds.utils.processes import parallel_map

logger = logging.getLogger(__name__)

Size = tuple[int, int]
"""(height, width) in pixels."""

_VERSION = 3  # raised when the check finds something new; results of earlier versions are not used
_PER_PROCESS = 64  # images; to start a process takes longer than to read fewer
_FEW_VALUES = 40  # a photograph has more
_LARGEST_ID = 100  # of a label map that could lie among the images


@dataclass
class CheckResult:
    """Content of a data set and its problems, as the full check finds them."""

    name: str
    classes: tuple[str, ...]
    """Class names by train id."""
    exists: bool
    """Whether any of the data set is there."""
    records: list[Record] = field(default_factory=list)
    """Pairs; images alone in a data set without labels."""
    num_images: int = 0
    """Number of image files, omitted ones included."""
    sizes: Counter[Size] = field(default_factory=Counter)
    """Number of images by size."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """(256,) number of pixels by train id, over all intact label maps."""
    counts: dict[Path, ClassCounts] = field(default_factory=dict)
    """Pixels by class of each intact label map, by its path."""
    problems: list[str] = field(default_factory=list)
    """One sentence per problem."""
    file: Path | None = None
    """File with all problems, under `checks/` in the data root; None if it could not be written."""


def check_dataset(files: DatasetFiles, *, processes: int = 1) -> CheckResult:
    """Run the full check of a data set and save its result.

    Every image and label map is decoded: pairs, damage, sizes, label values.

    Args:
        files: files of the data set.
        processes: number of worker processes.
    """
    result = CheckResult(files.name, files.classes, exists=files.exists())
    if not result.exists:
        return result
    fingerprint = files.fingerprint()  # first: a file that changes during the check makes the result outdated
    listing = files.scan()
    result.records, result.num_images, result.problems = listing.records, listing.num_images, listing.problems
    processes = max(1, min(processes, len(result.records) // _PER_PROCESS))
    check = partial(_check_record, len(files.classes))
    for record, (size, pixels, problems) in parallel_map(check, result.records, processes=processes, title=files.name):
        result.sizes.update([size] if size else [])
        result.problems += problems
        if pixels is not None:
            result.pixels += pixels
            result.counts[Path(record["sem_seg_file_name"])] = class_counts(pixels, len(files.classes))
    result.problems += _label_problems(files.name, files.classes, result.pixels, labelled=_labelled(result.records))
    result.file = _save(files, fingerprint, result)
    return result


def saved_problems(files: DatasetFiles) -> list[str] | None:
    """Return the problems that the last full check of a data set found.

    Returns:
        One sentence per problem; None if there was no full check, or a file has changed since.
    """
    try:
        saved = parse_json(_result_file(files).read_bytes())
        if saved["fingerprint"] == _versioned(files.fingerprint()):
            problems: list[str] = saved["problems"]
            return problems
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is no result, or none that can be used
    return None


def find_problem(
    names: Sequence[str],
    custom: Sequence[str] = (),
    modules: Sequence[str] = (),
    *,
    full: bool = False,
    processes: int = 1,
) -> str:
    """Check data sets, log every problem, and describe the first data set that has one.

    The result of an earlier full check is used if it still holds. A data set that is missing is not a problem here:
    loading it raises an error that says where it should be.

    Args:
        names: names of data sets or of groups of them.
        custom: YAML files that describe further data sets.
        modules: plug-in modules with further data sets, for the message; they are registered already.
        full: decode every file; by default files are listed, and few are decoded.
        processes: number of worker processes of the full check.

    Returns:
        The beginning of an error message; empty if there is no problem.
    """
    first = ""
    for files in _existing(names, custom):
        problems = saved_problems(files)
        if problems is None and full:
            logger.info("%s: every file is read once, and again only when one has changed", files.name)
            problems = check_dataset(files, processes=processes).problems
        elif problems is None:
            listing = files.scan()
            problems = listing.problems + missing_files(listing.records)
            problems = problems or _common_problems(files, listing.records)
        for problem in problems:
            logger.error("%s", problem)
        if problems and not first:
            first = (
                f"The data set {files.name} has {len(problems)} problem(s), first: {problems[0].rstrip('.')}. "
                f"See them all with `{_check_command(files.name, custom, modules)}` and mend them"
            )
    return first


def _common_problems(files: DatasetFiles, records: Sequence[Record]) -> list[str]:
    """Decode pairs until their labels show no more common problem, usually one pair; return the problems."""
    labelled = _labelled(records)
    seen = np.zeros(256, np.int64)
    problems: list[str] = []
    for record in labelled:
        _, pixels, problems = _check_record(len(files.classes), record)
        if problems:
            return problems
        if pixels is not None:
            seen += pixels
        if not (problems := _label_problems(files.name, files.classes, seen, labelled=labelled)):
            break
    return problems


def _label_problems(
    name: str, classes: Sequence[str], pixels: npt.NDArray[np.int64], *, labelled: Sequence[Record]
) -> list[str]:
    """Return a problem if nothing is labelled in a labelled data set, or 255 hides a class.

    Args:
        name: name of the data set.
        classes: class names by train id.
        pixels: (256,) number of pixels by train id.
        labelled: records with a label map.
    """
    if not labelled:
        return []
    colors = getattr(labelled[0].get("label_encoding"), "kind", None) == "colors"  # it may be a function
    missing = find_missing_labels(classes, pixels[: len(classes)], int(pixels[IGNORE_LABEL]), colors=colors)
    return [f"{name}: {missing}."] if missing else []


def _labelled(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if "sem_seg_file_name" in record]


def _check_command(name: str, custom: Sequence[str], modules: Sequence[str]) -> str:
    words = ["clouds prepare --check", name]
    if name not in {spec.name for spec in BUILTIN_DATASETS} | find_generated(data_root()).keys():
        words += [f"--dataset {file}" for file in custom] + [f"--module {module}" for module in modules]
    return " ".join(words)


def _existing(names: Sequence[str], custom: Sequence[str]) -> Iterator[DatasetFiles]:
    """Yield the files of those of the data sets that can be loaded."""
    root = data_root()
    specs = {spec.name: spec for spec in dataset_specs(custom)}
    members = (member for name in names for member in DATASET_GROUPS.get(name, (whole_of(name),)))
    for name in dict.fromkeys(members):
        if name in specs:
            if all(pattern.folder.is_dir() for pattern in specs[name].patterns(root)):
                yield DescribedFiles(specs[name], root)
            continue
        try:
            records = load_dataset(name)
        except UserError:
            continue
        yield RegisteredFiles(name, MetadataCatalog.get(name).stuff_classes, root, records)


def _result_file(files: DatasetFiles) -> Path:
    return files.root / "checks" / f"{files.name}.json"


def _versioned(fingerprint: str) -> str:
    return f"{_VERSION} {fingerprint}"


def _save(files: DatasetFiles, fingerprint: str, result: CheckResult) -> Path | None:
    path = _result_file(files)
    content = {"fingerprint": _versioned(fingerprint), "pairs": len(result.records), "problems": result.problems}
    try:
        make_folder(path.parent)
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False))
    except OSError as error:
        logger.warning("%s cannot be written (%s): the set will be checked again next time", path, error.strerror)
        return None
    return path


def _check_record(num_classes: int, record: Record) -> tuple[Size | None, npt.NDArray[np.int64] | None, list[str]]:
    """Return the image's size, the label map's pixels by train id, and the problems of both."""
    path, problems = record["file_name"], list[str]()
    image = pixels = None
    try:
        image = read_image(path, labelled=not {"sem_seg_file_name", "truth_file_name"}.isdisjoint(record))
        check_png_end(path)
        with Image.open(path) as file:
            if file.mode in ("1", "L", "P") and _looks_like_ids(file):
                problems.append(
                    f"{path} has one channel ({file.mode}) of few values: a label map in the place of an image?"
                )
    except UserError as error:
        problems.append(str(error))
    for key in ("sem_seg_file_name", "truth_file_name"):
        if key not in record:
            continue
        encoding = record.get("label_encoding") if key == "sem_seg_file_name" else None
        try:
            label = read_train_ids(record[key], num_classes, encoding)
            if key == "sem_seg_file_name":
                pixels = count_values(label)
            check_png_end(record[key], "label map")
            if image is not None:
                check_same_size(image, path, label, record[key])
        except UserError as error:
            problems.append(str(error))
    return None if image is None else (image.height, image.width), pixels, problems


def _looks_like_ids(image: Image.Image) -> bool:
    """Whether an image of one channel has as few and as small values as a label map."""
    if image.getcolors(_FEW_VALUES) is None:
        return False
    values = np.asarray(image)
    return not ((values > _LARGEST_ID) & (values != IGNORE_LABEL)).any()
