"""Conversion of label files to label maps of train ids.

Each label file is decoded (a damaged one is reported), translated, counted, and written beside the original. Label maps
that exist are only counted, so that a conversion that was stopped continues.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2

from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.data.encoding import LabelEncoding, TrainIds, read_train_ids
from clouds.data.preparation.class_statistics import ClassCounts, class_counts, count_values, write_class_statistics
from clouds.data.preparation.formats import CONVERTED_SUFFIX, FORMATS
from clouds.errors import UserError
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.processes import parallel_map

logger = logging.getLogger(__name__)

_NUM_CLASSES = len(CITYSCAPES_CLASSES)
# Rows unfiltered, where OpenCV has the option: label maps get smaller by it and are read in half the time.
_PNG = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []


@dataclass
class Conversion:
    """Result of a conversion."""

    counts: dict[Path, ClassCounts] = field(default_factory=dict)
    """Pixels by class of each label map, by its path."""
    num_written: int = 0
    """Number of label maps written; the others existed."""
    problems: dict[Path, str] = field(default_factory=dict)
    """Error message by path of each label file that could not be converted."""


def convert_folder(
    name: str,
    folder: Path,
    *,
    gt_dir: str | None = None,
    out_dir: Path | None = None,
    processes: int = 1,
    overwrite: bool = False,
) -> Conversion:
    """Convert the label files of one downloaded data set.

    Each label map is written beside its label file, class statistics and the split lists of Cityscapes to `out_dir`.

    Args:
        name: key of `FORMATS`.
        folder: folder of the unpacked data set.
        gt_dir: sub-folder of the label files; default: that of the format.
        out_dir: folder for statistics and lists; default: `folder`.
        processes: number of worker processes.
        overwrite: replace label maps that exist.

    Raises:
        UserError: there are no label files, or some of them could not be converted; all others are converted first.
        WriteError: a file cannot be written. The same call continues.
    """
    form = FORMATS[name]
    gt_folder, out_dir = folder / (gt_dir or form.gt_dir), out_dir or folder
    files, encoding = form.find(folder, gt_dir or form.gt_dir)
    if not files:
        what = "no label files of its kind in" if folder.is_dir() else "there is no folder"
        raise UserError(
            f"{form.name}: {what} {gt_folder}; give the folder of the unpacked data set, and --gt-dir if its labels "
            "are elsewhere (see datasets/README.md)."
        )
    done = convert_files(files, encoding, processes=processes, overwrite=overwrite)
    counted = done.counts
    if name == "cityscapes":  # as published, its statistics are those of the training images
        counted = {file: count for file, count in counted.items() if file.relative_to(gt_folder).parts[0] == "train"}
    make_folder(out_dir)
    if name == "cityscapes":
        write_split_lists(out_dir, gt_folder, list(done.counts))
    write_class_statistics(out_dir, folder, counted)
    logger.info(
        "%s: %d label maps written, %d existed, %d failed; statistics of %d in %s.",
        form.name,
        done.num_written,
        len(done.counts) - done.num_written,
        len(done.problems),
        len(counted),
        out_dir,
    )
    if done.problems:
        for problem in done.problems.values():
            logger.error("%s", problem)
        raise UserError(
            f"{len(done.problems)} of {len(files)} label files of {form.name} could not be converted; repair them and "
            "run the same command again, which converts only what is missing."
        )
    return done


def convert_files(
    files: Mapping[Path, Path], encoding: LabelEncoding, *, processes: int = 1, overwrite: bool = False
) -> Conversion:
    """Convert label files to label maps: 8-bit PNGs of one channel with train ids 0 to 18, and 255.

    Args:
        files: label map to write, by label file.
        encoding: meaning of the values in the label files.
        processes: number of worker processes.
        overwrite: replace label maps that exist, are intact, and are newer than their label file.
    """
    done = Conversion()
    for folder in {target.parent for target in files.values()}:
        make_folder(folder)
    work = partial(_convert_one, encoding, overwrite)
    for (source, target), result in parallel_map(work, list(files.items()), processes=processes):
        if isinstance(result, str):
            done.problems[source] = result
        else:
            done.counts[target] = result[0]
            done.num_written += result[1]
    return done


def write_split_lists(folder: Path, gt_folder: Path, label_maps: Sequence[Path]) -> None:
    """Write `train.txt`, `val.txt` and `test.txt` of Cityscapes: one line `<city>/<image>` per label map.

    Args:
        folder: folder of the lists.
        gt_folder: folder of the splits.
        label_maps: paths `<gt_folder>/<split>/<city>/*` of the converted label maps.

    Raises:
        WriteError: a list cannot be written.
    """
    splits: dict[str, list[str]] = {}
    for label_map in label_maps:
        split, *rest = label_map.relative_to(gt_folder).parts
        if rest:
            splits.setdefault(split, []).append("/".join(rest).removesuffix(CONVERTED_SUFFIX).rpartition("_")[0])
    for split, names in splits.items():
        write_atomically(folder / f"{split}.txt", "".join(f"{name}\n" for name in sorted(names)))


def _convert_one(encoding: LabelEncoding, overwrite: bool, pair: tuple[Path, Path]) -> tuple[ClassCounts, bool] | str:
    """Return the class counts and whether the label map was written, or an error message."""
    source, target = pair
    try:
        if not overwrite and (existing := _existing(source, target)) is not None:
            return class_counts(count_values(existing), _NUM_CLASSES), False
        label = encoding.read(str(source))
        encoded, png = cv2.imencode(".png", label, _PNG)
        assert encoded, f"{source}: OpenCV could not encode a label map of {label.shape}"
        write_atomically(target, png.tobytes())
        return class_counts(count_values(label), _NUM_CLASSES), True
    except UserError as error:
        return str(error)


def _existing(source: Path, target: Path) -> TrainIds | None:
    """Read a label map that is intact and newer than its label file; None if there is none."""
    try:
        if target.stat().st_mtime < source.stat().st_mtime:
            return None
        return read_train_ids(str(target), _NUM_CLASSES)
    except (FileNotFoundError, UserError):
        return None
