"""Text tables of scores on several data sets. Each table states the protocol, the code version and the image counts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

UNSEEN_MEAN = "unseen mean"
"""Heading of the mean over the data sets that were not trained on."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Provenance:
    """Conditions under which the scores of a table were measured.

    Attributes:
        protocol: name of the evaluation protocol, and what it does not fix.
        commit: version of the code.
        seed: seed of the training run.
        counts: data set -> number of images.
        unseen: data sets that were not trained on; if there are any, the last column is the mean over them.
    """

    protocol: str
    commit: str
    seed: int
    counts: Mapping[str, int]
    unseen: Sequence[str] = ()


def format_table(results: Mapping[str, Metrics], source: Provenance) -> str:
    """Format the scores of one network: one column per data set, one row per mean and per class.

    Args:
        results: data set -> metric -> percent, such as `{"mIoU": ..., "IoU-road": ...}`.
        source: conditions of the measurement; its `counts` contain the data sets of `results`.

    Returns:
        Lines of text without a trailing newline. A class that a data set does not contain is a dash.
    """
    rows = [_images([source.counts[name] for name in results], source)]
    keys = dict.fromkeys(key for metrics in results.values() for key in metrics if not key.startswith("ACC-"))
    for key in keys:
        values = [metrics.get(key, math.nan) for metrics in results.values()]
        if source.unseen:
            values.append(mean_of(results[name].get(key, math.nan) for name in source.unseen))
        rows.append((_label(key), [_percent(value) for value in values]))
    return _table("IoU in %", list(results), rows, source)


def format_comparison(results: Mapping[str, Mapping[str, float]], source: Provenance) -> str:
    """Format the mIoU of several methods: one row per method, one column per data set.

    Args:
        results: method -> data set -> mIoU in percent.
        source: conditions of the measurement; the data sets in its `counts` are the columns.

    Returns:
        Lines of text without a trailing newline.
    """
    rows = [_images(source.counts.values(), source)]
    for method, scores in results.items():
        values = [scores.get(name, math.nan) for name in source.counts]
        if source.unseen:
            values.append(mean_of(scores.get(name, math.nan) for name in source.unseen))
        rows.append((method, [_percent(value) for value in values]))
    return _table("mIoU in %", list(source.counts), rows, source)


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of the values that are not nan; nan if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _images(counts: Iterable[int], source: Provenance) -> tuple[str, list[str]]:
    return "images", [*map(str, counts), *([""] if source.unseen else [])]


def _label(metric: str) -> str:
    """Indent classes: "IoU-road" -> "  road", "BIoU-road" -> "  road, boundary"."""
    kind, _, name = metric.partition("IoU-")
    if not name:
        return metric
    return f"  {name}, boundary" if kind == "B" else f"  {name}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _table(corner: str, sets: list[str], rows: Sequence[tuple[str, Sequence[str]]], source: Provenance) -> str:
    header = [*sets, *([UNSEEN_MEAN] if source.unseen else [])]
    first = max(len(label) for label in (corner, *(label for label, _ in rows)))
    widths = [max(len(name), 6) for name in header]

    def line(label: str, cells: Sequence[str]) -> str:
        return "  ".join([label.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])

    provenance = f"protocol {source.protocol}, commit {source.commit}, seed {source.seed}"
    return "\n".join([provenance, line(corner, header), *(line(label, cells).rstrip() for label, cells in rows)])
