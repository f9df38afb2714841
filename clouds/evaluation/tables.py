"""Scores of several data sets side by side, as text; every table says how, with what code and on how many images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

UNSEEN_MEAN = "unseen mean"

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Provenance:
    """What a table says beside the scores: how, with what code and on how many images they were measured."""

    protocol: str
    """Name of the evaluation protocol."""
    commit: str
    """Of the code."""
    seed: int
    """Of the run."""
    counts: Mapping[str, int]
    """Data set -> number of images."""
    unseen: Sequence[str] = ()
    """Sets that were not trained on; where there are any, a last column has the mean over them."""


def format_table(results: Mapping[str, Mapping[str, Metrics]], source: Provenance) -> str:
    """One network on several data sets: a column each; a row for each mean and for every class's IoU.

    Args:
        results: data set -> what its evaluator returned, `{"sem_seg": {"mIoU": ..., "IoU-road": ...}}`, in percent.
        source: of the scores; it knows at least the sets of `results`.

    Returns:
        lines of text, without a newline at the end; a class that a set does not have is a dash.
    """
    metrics = {name: result["sem_seg"] for name, result in results.items()}
    rows = [_images([source.counts[name] for name in results], source)]
    keys = dict.fromkeys(key for values in metrics.values() for key in values if not key.startswith("ACC-"))
    for key in keys:
        values = [metrics[name].get(key, math.nan) for name in results]
        if source.unseen:
            values.append(mean_of(metrics[name].get(key, math.nan) for name in source.unseen))
        rows.append((_label(key), [_percent(value) for value in values]))
    return _table("IoU in %", list(results), rows, source)


def format_comparison(results: Mapping[str, Mapping[str, float]], source: Provenance) -> str:
    """Several methods on the same data sets: a row a method, a column a set, mIoU in the cells.

    Args:
        results: method -> data set -> mIoU in percent.
        source: of the scores; the sets of its `counts` are the columns.
    """
    rows = [_images(source.counts.values(), source)]
    for method, scores in results.items():
        values = [scores.get(name, math.nan) for name in source.counts]
        if source.unseen:
            values.append(mean_of(scores.get(name, math.nan) for name in source.unseen))
        rows.append((method, [_percent(value) for value in values]))
    return _table("mIoU in %", list(source.counts), rows, source)


def mean_of(values: Iterable[float]) -> float:
    """Mean of the values that are defined; nan where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _images(counts: Iterable[int], source: Provenance) -> tuple[str, list[str]]:
    return "images", [*map(str, counts), *([""] if source.unseen else [])]


def _label(metric: str) -> str:
    """Classes are indented: "IoU-road" -> "  road", "BIoU-road" -> "  road, boundary"."""
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
