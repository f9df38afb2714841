"""Scores and metrics that the trainings of an experiment leave in their folders."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from clouds.errors import UserError
from clouds.experiments.plan import Variant, run_folder
from clouds.experiments.statistics import Difference, paired_difference
from clouds.utils.jsonl import Row, last_row, valid_rows

RunScores = Mapping[str, Mapping[str, float]]
"""Scores of one run: test set -> name of a score -> percent."""


@dataclass(frozen=True)
class Results:
    """Scores of all runs of an experiment.

    Attributes:
        variants: rows of the experiment, in order.
        seeds: seeds of the trainings.
        test_sets: names of the test sets, in order.
        unseen: the test sets of domains that no row was trained on.
        scores: key of a variant -> seed -> scores of that run.
        baselines: name of a method that was not trained here -> test set -> mIoU in percent.
        comparisons: pairs of keys; the report answers whether the first row is better than the second.
    """

    variants: Sequence[Variant]
    seeds: Sequence[int]
    test_sets: Sequence[str]
    unseen: Sequence[str]
    scores: Mapping[str, Mapping[int, RunScores]]
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    comparisons: Sequence[tuple[str, str]] = ()

    def unseen_means(self, key: str, score: str = "mIoU") -> dict[int, float]:
        """Seed -> mean of a score over the unseen test sets, in percent."""
        return {seed: mean_over(run, self.unseen, score) for seed, run in self.scores[key].items()}

    def differences(self, score: str = "mIoU") -> list[Difference]:
        """Paired differences of the unseen means, seed by seed, for the comparisons whose two rows are there."""
        titles = {each.key: each.title for each in self.variants}
        return [
            paired_difference(
                titles[one], titles[other], self.unseen_means(one, score), self.unseen_means(other, score)
            )
            for one, other in self.comparisons
            if one in titles and other in titles
        ]


def read_results(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    output: Path,
    *,
    test_sets: Sequence[str],
    unseen: Sequence[str],
    baselines: Mapping[str, Mapping[str, float]],
    comparisons: Sequence[tuple[str, str]],
) -> Results:
    """Read the scores of all runs in `output`; arguments as in `Results`.

    Raises:
        UserError: a run has no evaluation.
    """
    scores = {each.key: {seed: read_scores(run_folder(output, each.key, seed)) for seed in seeds} for each in variants}
    return Results(variants, seeds, test_sets, unseen, scores, baselines, comparisons)


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Return the scores of the last evaluation that a training in `folder` recorded, in percent.

    Raises:
        UserError: there is none.
    """
    scores: dict[str, dict[str, float]] = {}
    for key, value in (last_row(folder / "metrics.json") or {}).items():
        name, kind, score = (*key.split("/", 2), "", "")[:3]
        if kind == "sem_seg":
            scores.setdefault(name, {})[score] = math.nan if value is None else float(value)
    if not scores:
        raise UserError(f"{folder / 'metrics.json'} has no evaluation: was the training interrupted?")
    return scores


def read_metrics(folder: Path) -> list[Row]:
    """Return the rows of a training's `metrics.json`, from its last start at iteration 0 on; none without a file."""
    rows: list[Row] = []
    for row in valid_rows(folder / "metrics.json"):
        if rows and row["iteration"] < rows[-1]["iteration"]:
            rows.clear()
        rows.append(row)
    return rows


def metric_means(folder: Path, prefix: str) -> dict[str, float]:
    """Return the mean over a training of every metric whose name begins with `prefix`, without NaN."""
    values: dict[str, list[float]] = {}
    for row in read_metrics(folder):
        for key, value in row.items():
            if key.startswith(prefix) and isinstance(value, int | float) and not math.isnan(value):
                values.setdefault(key, []).append(value)
    return {key: fmean(each) for key, each in values.items()}


def mean_over(scores: RunScores, test_sets: Iterable[str], score: str = "mIoU") -> float:
    """Return the mean of a score over test sets, in percent."""
    return fmean(scores[name][score] for name in test_sets)
