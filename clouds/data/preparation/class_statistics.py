"""Class statistics: the pixels of each class in each label map of a data set, as rare-class sampling needs them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds.data.classes import IGNORE_LABEL
from clouds.errors import UserError
from clouds.utils.atomic import write_atomically
from clouds.utils.json_files import read_json
from clouds.utils.values import is_integer

ClassCounts = dict[int, int]
"""Number of pixels by train id, of the classes that occur."""

STATISTICS_FILE = "sample_class_stats.json"

_MAX_PIXELS = 10**12  # of one label map; sums over a data set then fit 64 bits


def count_values(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the pixels of each value in a label map.

    Args:
        label: (H, W) uint8.

    Returns:
        (256,) int64 counts.
    """
    values = np.ascontiguousarray(label).ravel()
    # Runs are counted, not pixels: a label map has a hundred times fewer. Sums in fp64 are exact.
    ends_run = np.ones(values.size, np.bool_)
    np.not_equal(values[1:], values[:-1], out=ends_run[:-1])
    last = np.flatnonzero(ends_run)
    return np.bincount(values[last], np.diff(last, prepend=-1), minlength=256).astype(np.int64)


def class_counts(value_counts: npt.NDArray[np.int64], num_classes: int) -> ClassCounts:
    """Return the non-zero counts of the classes.

    Args:
        value_counts: (256,) counts by train id, see `count_values`.
        num_classes: number of classes without void.
    """
    return {c: int(value_counts[c]) for c in range(num_classes) if value_counts[c]}


def write_class_statistics(folder: Path, root: Path, counts: Mapping[Path, ClassCounts]) -> None:
    """Write the class statistics of a data set in the three published files.

    `sample_class_stats.json` is a list of {train id: pixels, "file": name}, `sample_class_stats_dict.json` maps the
    name to {train id: pixels}, and `samples_with_class.json` maps the train id to [[name, pixels], ...]. Names are
    paths relative to `root`, so that the data set may be moved.

    Args:
        folder: existing folder of the three files.
        root: folder that holds all label maps.
        counts: counts by path of the label map.

    Raises:
        WriteError: a file cannot be written.
    """
    by_file = {file.relative_to(root).as_posix(): count for file, count in counts.items()}
    by_class: dict[int, list[tuple[str, int]]] = {}
    for file, count in by_file.items():
        for train_id, pixels in count.items():
            by_class.setdefault(train_id, []).append((file, pixels))
    _write_json(folder / STATISTICS_FILE, [{**count, "file": file} for file, count in by_file.items()])
    _write_json(folder / "sample_class_stats_dict.json", by_file)
    _write_json(folder / "samples_with_class.json", dict(sorted(by_class.items())))


class ClassStatistics:
    """Counts of the label maps of a data set, as `read_class_statistics` reads them.

    A label map is known by its path relative to the data root. Statistics of the published converters have paths of
    another machine; in these a label map is found by its name, if only one has this name.
    """

    def __init__(self, counts: Mapping[str, ClassCounts]) -> None:
        """
        Args:
            counts: counts by path, with slashes.
        """
        self._by_path = dict(counts)
        self._by_name: dict[str, list[str]] = {}
        for path in counts:
            self._by_name.setdefault(path.rpartition("/")[2], []).append(path)

    def find(self, file: Path, root: Path) -> ClassCounts | None:
        """Return the counts of a label map, or None if they are missing or it is not clear which these are.

        Args:
            file: path of the label map.
            root: data root.
        """
        if file.is_relative_to(root) and (counts := self._by_path.get(file.relative_to(root).as_posix())) is not None:
            return counts
        paths = self._by_name.get(file.name, [])
        return self._by_path[paths[0]] if len(paths) == 1 else None


def read_class_statistics(file: Path) -> ClassStatistics:
    """Read a `sample_class_stats.json`.

    Raises:
        UserError: the file is missing or damaged, a train id or a number of pixels is not one, or a label map is listed
            twice.
    """
    counts: dict[str, ClassCounts] = {}
    for number, row in enumerate(read_json(file, list, "make them again"), 1):
        try:
            path = row.pop("file")
            if not isinstance(path, str) or path in counts:
                raise ValueError(f"file is {path!r}, which is no text or occurs twice")
            counts[path] = {_train_id(key): _pixels(value) for key, value in row.items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else error
            raise UserError(
                f"The class statistics {file} are damaged in entry {number} ({reason}): make them again."
            ) from error
    return ClassStatistics(counts)


def _train_id(key: str) -> int:
    if not re.fullmatch(r"\d{1,3}", key, re.ASCII) or int(key) >= IGNORE_LABEL:
        raise ValueError(f"{key!r} is no train id")
    return int(key)


def _pixels(value: Any) -> int:
    if not is_integer(value, high=_MAX_PIXELS):
        raise ValueError(f"{value!r} is no number of pixels")
    return int(value)


def _write_json(file: Path, content: Any) -> None:
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False))
