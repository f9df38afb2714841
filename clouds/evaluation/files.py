"""Files of an evaluation: the scores, and for every data set the confusion matrix and the counts of each image.

    <output>/evaluations/<name>/
      scores.json                 conditions and scores; written last, so its presence marks a complete evaluation
      <data set>/                 by the main protocol; <data set>@<protocol> by a further one
        confusion.npz             confusion matrix, and the counts of each image
        per_image.csv             mIoU, IoU and area of each image, to read in a spreadsheet

The name is the number of iterations before an evaluation in a training, with seven digits, and the local time
``<year><month><day>-<hour><minute><second>`` for the evaluation of a file with weights.

Dimensions: C classes without void, N images.
"""

import csv
import io
import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clouds.data.protocols import Absent
from clouds.errors import UserError
from clouds.utils.atomic import atomic_file, make_folder, write_atomically, writing
from clouds.utils.json_files import read_json
from clouds.utils.values import is_number

FOLDER = "evaluations"
"""Folder of all evaluations in an output folder."""
SCORES = "scores.json"
CONFUSION = "confusion.npz"
PER_IMAGE = "per_image.csv"

_IN_TRAINING = re.compile(r"\d{7,}")
_OF_WEIGHTS = re.compile(r"(\d{8}-\d{6})(?:_(\d+))?")
_REMEDY = "evaluate again, or move this folder away"
_ABSENT: tuple[Absent, ...] = ("left_out", "zero")

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of each image of a data set by one protocol. Ignored pixels of the ground truth are not counted.

    Attributes:
        dataset: name of the data set.
        protocol: name of the protocol.
        classes: names of the C classes.
        images: ids of the N images, sorted.
        files: path of each image.
        counts: (N, 3, C) int64: true positives, predicted pixels, pixels of the ground truth.
        matrix: (C+1, C+1) int64 confusion matrix of all images, see `clouds.evaluation.confusion`.
        absent: rule for a class that is predicted but not in the ground truth.
        boundary_counts: (N, 3, C) int64 counts of `clouds.evaluation.boundary`; None if they were not computed.
    """

    dataset: str
    protocol: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    files: tuple[str, ...]
    counts: Counts
    matrix: Counts
    absent: Absent = "left_out"
    boundary_counts: Counts | None = None


@dataclass(frozen=True)
class EvaluationFiles:
    """A complete evaluation on disk.

    Attributes:
        folder: its folder.
        about: content of ``scores.json``.
        sets: (data set, protocol) -> folder with its counts, in the order of the config. Sets that an evaluator of
            another class has scored have none.
    """

    folder: Path
    about: Mapping[str, Any]
    sets: Mapping[tuple[str, str], Path]

    def counts(self, dataset: str, protocol: str | None = None) -> ImageCounts:
        """Read the counts of a data set.

        Args:
            dataset: name of the data set.
            protocol: name of the protocol; default: the main one.

        Raises:
            UserError: there are no counts of this data set and protocol, or the file is damaged.
        """
        name = protocol or self.about["protocols"][0]
        if (dataset, name) not in self.sets:
            known = ", ".join(f"{each} by {by}" for each, by in self.sets) or "no data set"
            raise UserError(f"{self.folder} has no counts of {dataset} by {name}, but of {known}: name one of these.")
        return _read_counts(self.sets[dataset, name] / CONFUSION, dataset, name)


def class_iou(counts: npt.NDArray[Any], absent: Absent = "left_out") -> npt.NDArray[np.float64]:
    """Compute the IoU of each class, TP / (TP + FP + FN).

    Args:
        counts: (..., 3, C) true positives, predicted pixels, pixels of the ground truth; of an image, or their sum over
            images.
        absent: rule for a class that is predicted but not in the ground truth: it has no IoU, or one of 0.

    Returns:
        (..., C) in percent; nan for a class without an IoU.
    """
    right, predicted, true = np.moveaxis(counts.astype(np.float64), -2, 0)
    counted = (true > 0) | (predicted > 0) if absent == "zero" else true > 0
    return np.divide(100 * right, predicted + true - right, out=np.full_like(right, np.nan), where=counted)


def mean_iou(counts: npt.NDArray[Any], absent: Absent = "left_out") -> npt.NDArray[np.float64]:
    """Compute the mean of `class_iou` over the classes that have one.

    Args:
        counts: (..., 3, C), see `class_iou`.
        absent: rule for a class that is predicted but not in the ground truth, see `class_iou`.

    Returns:
        (...) in percent; nan where no class has an IoU.
    """
    iou = class_iou(counts, absent)
    number = np.asarray(np.isfinite(iou).sum(axis=-1))
    total = np.asarray(np.nansum(iou, axis=-1))
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)


def write_evaluation(
    folder: Path, about: Mapping[str, Any], results: Mapping[str, Any], measured: Sequence[ImageCounts]
) -> None:
    """Write an evaluation; files of an earlier one in the same folder are replaced.

    Args:
        folder: folder of this evaluation.
        about: conditions of the evaluation, plain values. `protocols` lists the names of the protocols, the main one
            first.
        results: ``{data set: {task: {metric: percent}}}``; nan becomes null.
        measured: counts of each data set and protocol.

    Raises:
        WriteError: a file cannot be written.
    """
    make_folder(folder)
    with writing(folder / SCORES):
        (folder / SCORES).unlink(missing_ok=True)  # until its other files are complete
    for each in measured:
        own = folder / _set_name(each.dataset, each.protocol, about["protocols"][0])
        make_folder(own)
        _write_counts(own / CONFUSION, each)
        _write_table(own / PER_IMAGE, each)
    text = dumps({**about, "scores": _plain(results)}, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / SCORES, f"{text}\n".encode(errors="replace"))  # paths may have bytes that are not UTF-8


def read_evaluation(folder: Path) -> EvaluationFiles:
    """Read the conditions and scores of an evaluation, and find its counts.

    Raises:
        UserError: the evaluation is incomplete or damaged.
    """
    file = folder / SCORES
    about = read_json(file, dict, _REMEDY)
    protocols, scores = about.get("protocols"), about.get("scores")
    if not isinstance(protocols, list) or not protocols or not all(isinstance(name, str) for name in protocols):
        raise UserError(f"{file} does not list its protocols: {_REMEDY}.")
    if not isinstance(scores, dict) or not all(map(_is_scores, scores.values())):
        raise UserError(f"{file} does not have scores by data set and task: {_REMEDY}.")
    places = {
        (dataset, name): folder / _set_name(dataset, name, protocols[0]) for dataset in scores for name in protocols
    }
    return EvaluationFiles(
        folder, about, {key: place for key, place in places.items() if (place / CONFUSION).is_file()}
    )


def final_evaluation(output: Path) -> EvaluationFiles | None:
    """Return the evaluation that an output folder stands for.

    Args:
        output: output folder of a run.

    Returns:
        The complete evaluation after the most iterations of its training; without one, the newest evaluation of a file
        with weights; None if there is neither.

    Raises:
        UserError: this evaluation is damaged.
    """
    complete = [path.parent for path in (output / FOLDER).glob(f"*/{SCORES}")]
    in_training = [path for path in complete if _IN_TRAINING.fullmatch(path.name)]
    if in_training:
        return read_evaluation(max(in_training, key=lambda path: int(path.name)))
    names = {path: _OF_WEIGHTS.fullmatch(path.name) for path in complete}
    of_weights = {path: (name[1], int(name[2] or 1)) for path, name in names.items() if name}
    return read_evaluation(max(of_weights, key=of_weights.__getitem__)) if of_weights else None


def _set_name(dataset: str, protocol: str, main: str) -> str:
    return dataset if protocol == main else f"{dataset}@{protocol}"


def _write_counts(path: Path, each: ImageCounts) -> None:
    arrays = {
        "matrix": each.matrix,
        "classes": np.array(each.classes, dtype=np.str_),
        "images": np.array(each.images, dtype=np.str_),
        "files": np.array(each.files, dtype=np.str_),
        "counts": each.counts,
        "absent": np.array(each.absent),
        **({} if each.boundary_counts is None else {"boundary_counts": each.boundary_counts}),
    }
    with atomic_file(path) as file:
        np.savez_compressed(file, **cast(Any, arrays))


def _read_counts(path: Path, dataset: str, protocol: str) -> ImageCounts:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {_REMEDY}.") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): {_REMEDY}.") from error
    if wrong := _wrong_array(arrays):
        raise UserError(f"{path} has no valid {wrong}: {_REMEDY}.")
    classes, images, files = (tuple(arrays[name].tolist()) for name in ("classes", "images", "files"))
    return ImageCounts(
        dataset,
        protocol,
        classes,
        images,
        files,
        arrays["counts"],
        arrays["matrix"],
        cast(Absent, str(arrays["absent"])),
        arrays.get("boundary_counts"),
    )


def _wrong_array(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the name of the first array that is missing or of another shape or dtype; "" if all are valid."""
    classes, images = (arrays[name].size if name in arrays else 0 for name in ("classes", "images"))
    shapes = {
        "classes": ("U", (classes,)),
        "images": ("U", (images,)),
        "files": ("U", (images,)),
        "counts": ("i", (images, 3, classes)),
        "matrix": ("i", (classes + 1, classes + 1)),
        "absent": ("U", ()),
        **({"boundary_counts": ("i", (images, 3, classes))} if "boundary_counts" in arrays else {}),
    }
    for name, (kind, shape) in shapes.items():
        if name not in arrays or arrays[name].dtype.kind != kind or arrays[name].shape != shape:
            return name
    return "" if str(arrays["absent"]) in _ABSENT else "absent"


def _write_table(path: Path, each: ImageCounts) -> None:
    """Write one row for each image, sorted by its id; a class that has no IoU there has an empty cell."""
    iou, mean, true = class_iou(each.counts, each.absent), mean_iou(each.counts, each.absent), each.counts[:, 2]
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    heads = [f"{kind}-{name}" for kind in ("IoU", "area") for name in each.classes]
    table.writerow(["image", "mIoU", "area", *heads])
    for index in sorted(range(len(each.images)), key=each.images.__getitem__):
        scores = ["" if math.isnan(value) else f"{value:.4f}" for value in (mean[index], *iou[index])]
        table.writerow([each.images[index], scores[0], true[index].sum(), *scores[1:], *true[index]])
    write_atomically(path, text.getvalue().encode(errors="surrogateescape"))


def _plain(value: Any) -> Any:
    """Return nested scores as values of JSON; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None


def _is_scores(tasks: Any) -> bool:
    return isinstance(tasks, dict) and all(
        isinstance(scores, dict) and all(value is None or is_number(value) for value in scores.values())
        for scores in tasks.values()
    )
