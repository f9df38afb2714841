"""Scores and metrics that the trainings of an experiment leave in their folders."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from clouds.engine.run.metrics import read_scores, read_training
from clouds.errors import UserError
from clouds.experiments.plan import Variant, run_folder
from clouds.experiments.statistics import Difference, paired_difference

RunScores = Mapping[str, Mapping[str, float]]
"""Scores of one run: test set -> name of a score -> percent."""


@dataclass(frozen=True)
class Results:
    """Scores of all runs of an experiment.

    Attributes:
        variants: rows of the experiment, in order.
        seeds: seeds of the trainings.
        test_sets: names of the test sets, in order.
        unseen: the test sets of domains that no row was trained on; their mean is compared.
        scores: key of a variant -> seed -> scores of that run; a seed that was not run is missing.
        baselines: name of a method that was not trained here -> test set -> mIoU in percent.
        comparisons: pairs of keys; the report answers whether the first row is better than the second.
        selected: key of a variant -> test set by which it was selected, where the domain of that set is among those of
            the unseen ones: its scores on them are not those of an unseen domain.
        folders: key of a variant -> seed -> output folder of that run.
    """

    variants: Sequence[Variant]
    seeds: Sequence[int]
    test_sets: Sequence[str]
    unseen: Sequence[str]
    scores: Mapping[str, Mapping[int, RunScores]]
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    comparisons: Sequence[tuple[str, str]] = ()
    folders: Mapping[str, Mapping[int, Path]] = field(default_factory=dict)
    selected: Mapping[str, str] = field(default_factory=dict)

    @property
    def compared(self) -> list[tuple[Variant, Variant]]:
        """The comparisons whose two rows are there."""
        known = {each.key: each for each in self.variants}
        return [(known[one], known[other]) for one, other in self.comparisons if one in known and other in known]

    def values(self, key: str, test_set: str, score: str = "mIoU") -> dict[int, float]:
        """Seed -> score of a row on a test set, in percent; NaN if it has no value."""
        return {seed: run.get(test_set, {}).get(score, math.nan) for seed, run in self.scores[key].items()}

    def unseen_means(self, key: str, score: str = "mIoU") -> dict[int, float]:
        """Seed -> mean of a score over the unseen test sets, in percent."""
        return {seed: mean_over(run, self.unseen, score) for seed, run in self.scores[key].items()}

    def differences(self, score: str = "mIoU") -> list[Difference]:
        """Paired differences of the unseen means, seed by seed, for the comparisons whose two rows are there."""
        return [
            paired_difference(
                one.title, other.title, self.unseen_means(one.key, score), self.unseen_means(other.key, score)
            )
            for one, other in self.compared
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
    done: Mapping[str, Sequence[int]] | None = None,
) -> Results:
    """Read the scores of the runs in `output`.

    Args:
        variants: rows of the experiment, in order.
        seeds: seeds of the trainings.
        output: folder of the runs.
        test_sets: names of the test sets, in order.
        unseen: the test sets of domains that no row was trained on.
        baselines: name of a method that was not trained here -> test set -> mIoU in percent.
        comparisons: pairs of keys to compare.
        done: key of a variant -> seeds of its runs; default: all seeds.

    Raises:
        UserError: a run has no evaluation, see `read_run`.
    """
    folders = {
        each.key: {seed: run_folder(output, each.key, seed) for seed in (seeds if done is None else done[each.key])}
        for each in variants
    }
    scores = {key: {seed: read_run(run, test_sets) for seed, run in runs.items()} for key, runs in folders.items()}
    return Results(variants, seeds, test_sets, unseen, scores, baselines, comparisons, folders)


def read_run(folder: Path, test_sets: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the scores of the evaluation at the end of the training in `folder`, in percent.

    Returns:
        Test set -> name of a score -> percent; mIoU and fwIoU are NaN if they have no value.

    Raises:
        UserError: the last row is not an evaluation, it lacks a test set, or a score is not a percentage.
    """
    file = folder / "metrics.json"
    scores = read_scores(file)
    if not scores:
        raise UserError(f"{file} has no evaluation at its end: continue the training with --resume, which adds it.")
    for name in test_sets:
        if name not in scores:
            raise UserError(f"The last evaluation in {file} has no score of {name}: evaluate this data set, too.")
    for name, values in scores.items():
        for score, value in values.items():
            if not 0 <= value <= 100:
                raise UserError(f"{name}/sem_seg/{score} in {file} is {value:g}, which is not a percentage.")
        values |= {score: math.nan for score in ("mIoU", "fwIoU") if score not in values}
    return scores


def metric_means(folder: Path, prefix: str) -> dict[str, float]:
    """Return the mean over a training of every percentage whose name begins with `prefix`.

    A value outside of 0..100 is skipped.
    """
    values: dict[str, list[float]] = {}
    for row in read_training(folder / "metrics.json"):
        for key, value in row.items():
            if key.startswith(prefix) and 0 <= value <= 100:
                values.setdefault(key, []).append(value)
    return {key: fmean(each) for key, each in values.items()}


def mean_over(scores: RunScores, test_sets: Iterable[str], score: str = "mIoU") -> float:
    """Return the mean of a score over test sets, in percent; NaN if one of them has no value."""
    return fmean(scores.get(name, {}).get(score, math.nan) for name in test_sets)
