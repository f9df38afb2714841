"""Class statistics: the pixels of each class in each label map of a data set, as rare-class sampling needs them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds.errors import UserError
from clouds.utils.atomic import write_atomically

ClassCounts = dict[int, int]
"""Number of pixels by train id, of the classes that occur."""

STATISTICS_FILE = "sample_class_stats.json"


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
        OSError: a file cannot be written.
    """
    by_file = {file.relative_to(root).as_posix(): count for file, count in counts.items()}
    by_class: dict[int, list[tuple[str, int]]] = {}
    for file, count in by_file.items():
        for train_id, pixels in count.items():
            by_class.setdefault(train_id, []).append((file, pixels))
    _write_json(folder / STATISTICS_FILE, [{**count, "file": file} for file, count in by_file.items()])
    _write_json(folder / "sample_class_stats_dict.json", by_file)
    _write_json(folder / "samples_with_class.json", dict(sorted(by_class.items())))


def read_class_statistics(file: Path) -> dict[str, ClassCounts]:
    """Read a `sample_class_stats.json`.

    Files of the published converters, which have paths of another machine, can be read as well.

    Returns:
        Counts by name of the label map, without its folder.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return {
            Path(row["file"]).name: {int(key): int(value) for key, value in row.items() if key != "file"}
            for row in json.loads(file.read_text(encoding="utf-8"))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"The class statistics {file} cannot be read ({error!r}): make them again.") from error


def _write_json(file: Path, content: Any) -> None:
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False))
