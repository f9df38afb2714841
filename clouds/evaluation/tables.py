"""Scores of several data sets side by side, as text; every table says how, with what code and on how many images."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

UNSEEN_MEAN = "unseen mean"

Metrics = Mapping[str, float]


def format_table(
    results: Mapping[str, Mapping[str, Metrics]],
    protocol: str,
    commit: str,
    seed: int,
    counts: Mapping[str, int],
    unseen: Sequence[str] = (),
) -> str:
    """One network on several data sets: a column each; a row each for mIoU, fwIoU, mACC, pACC and every class's IoU.

    Args:
        results: data set -> what its evaluator returned, `{"sem_seg": {"mIoU": ..., "IoU-road": ...}}`, in percent.
        protocol: name of the evaluation protocol.
        commit: of the code.
        seed: of the run.
        counts: data set -> number of images.
        unseen: sets that were not trained on; where there are any, a last column has the mean over them.

    Returns:
        lines of text, without a newline at the end; a class that a set does not have is a dash.
    """
    metrics = {name: result["sem_seg"] for name, result in results.items()}
    rows = [("images", [str(counts[name]) for name in results] + ([""] if unseen else []))]
    keys = dict.fromkeys(key for values in metrics.values() for key in values if not key.startswith("ACC-"))
    for key in keys:
        values = [metrics[name].get(key, math.nan) for name in results]
        if unseen:
            values.append(mean_of(metrics[name].get(key, math.nan) for name in unseen))
        rows.append((key.replace("IoU-", "  "), [_percent(value) for value in values]))
    header = [*results, *([UNSEEN_MEAN] if unseen else [])]
    return "\n".join([_provenance(protocol, commit, seed), *_grid("IoU in %", header, rows)])


def format_comparison(
    results: Mapping[str, Mapping[str, float]],
    protocol: str,
    commit: str,
    seed: int,
    counts: Mapping[str, int],
    unseen: Sequence[str] = (),
) -> str:
    """Several methods on the same data sets: a row a method, a column a set, mIoU in the cells.

    Args:
        results: method -> data set -> mIoU in percent.
        protocol: name of the evaluation protocol.
        commit: of the code.
        seed: of the run.
        counts: data set -> number of images; its sets are the columns.
        unseen: sets that were not trained on; where there are any, a last column has the mean over them.
    """
    rows = [("images", [str(count) for count in counts.values()] + ([""] if unseen else []))]
    for method, scores in results.items():
        values = [scores.get(name, math.nan) for name in counts]
        if unseen:
            values.append(mean_of(scores.get(name, math.nan) for name in unseen))
        rows.append((method, [_percent(value) for value in values]))
    header = [*counts, *([UNSEEN_MEAN] if unseen else [])]
    return "\n".join([_provenance(protocol, commit, seed), *_grid("mIoU in %", header, rows)])


def mean_of(values: Iterable[float]) -> float:
    """Mean of the values that are defined; nan where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _provenance(protocol: str, commit: str, seed: int) -> str:
    return f"protocol {protocol}, commit {commit}, seed {seed}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _grid(corner: str, header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    first = max(len(label) for label in (corner, *(label for label, _ in rows)))
    widths = [max(len(name), 6) for name in header]

    def line(label: str, cells: Sequence[str]) -> str:
        return "  ".join([label.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])

    return [line(corner, header), *(line(label, cells).rstrip() for label, cells in rows)]
