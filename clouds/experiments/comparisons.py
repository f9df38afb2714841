"""Differences between the rows of an experiment, with intervals over seeds and over images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clouds.evaluation.tables import UNSEEN_MEAN, mean_of
from clouds.experiments.evidence import Evidence
from clouds.experiments.plan import Variant
from clouds.experiments.results import Results
from clouds.experiments.statistics import Difference, Unit, bootstrap_differences, paired_difference


class Compared(NamedTuple):
    """Difference of two rows in one score.

    Attributes:
        label: score that is compared, such as the name of a test set.
        seeds: difference with its interval over seeds.
        images: difference with its interval over images or folders; None without counts of the images.
    """

    label: str
    seeds: Difference
    images: Difference | None = None

    @property
    def shown(self) -> Difference:
        """The difference from which a conclusion is drawn: over seeds if these have an interval, else over images."""
        if self.seeds.has_interval or self.images is None:
            return self.seeds
        return self.images


@dataclass(frozen=True)
class Comparison:
    """All differences of two rows.

    Attributes:
        first: title of the first row.
        second: title of the second row, which is subtracted.
        rows: mIoU: the mean over unseen test sets, then each test set; then the frequency-weighted IoU.
        classes: IoU of each class, mean over the unseen test sets.
        fault: why the rows are not compared, as the end of a sentence; "" if they are.
    """

    first: str
    second: str
    rows: Sequence[Compared] = ()
    classes: Sequence[Compared] = ()
    fault: str = ""

    @property
    def label(self) -> str:
        """Names of both rows."""
        return f"{self.first} — less — {self.second}"


def compare(results: Results, evidence: Evidence, unit: Unit = "image") -> list[Comparison]:
    """Return the comparisons of the results whose two rows are there."""
    return [_compare(results, evidence, one, other, unit) for one, other in results.compared]


def _compare(results: Results, evidence: Evidence, one: Variant, other: Variant, unit: Unit) -> Comparison:
    if fault := evidence.fault(one.key, other.key, results.test_sets):
        return Comparison(one.title, other.title, fault=fault)
    titles = (one.title, other.title)

    def over_seeds(score: str, test_set: str | None = None) -> Difference:
        values = [
            results.unseen_means(key, score) if test_set is None else results.values(key, test_set, score)
            for key in (one.key, other.key)
        ]
        return paired_difference(*titles, *values)

    paired = {name: counts for name in results.test_sets if (counts := evidence.paired(one.key, other.key, name))}
    whole = all(name in paired for name in results.unseen)
    unseen = bootstrap_differences(*titles, [paired[each] for each in results.unseen], unit) if whole else None
    by_set = dict(zip(results.unseen, unseen.by_set, strict=True)) if unseen else {}
    for name in paired.keys() - by_set.keys():
        by_set[name] = bootstrap_differences(*titles, [paired[name]], unit).mean
    rows = [
        Compared(UNSEEN_MEAN, over_seeds("mIoU"), unseen.mean if unseen else None),
        *(Compared(name, over_seeds("mIoU", name), by_set.get(name)) for name in results.test_sets),
        Compared(f"{UNSEEN_MEAN}, frequency-weighted IoU", over_seeds("fwIoU")),
    ]
    classes = [
        Compared(name, paired_difference(*titles, *(class_means(results, key, name) for key in (one.key, other.key))))
        for name in class_names(results)
    ]
    if unseen and len(unseen.by_class) == len(classes):
        classes = [each._replace(images=images) for each, images in zip(classes, unseen.by_class, strict=True)]
    return Comparison(*titles, rows, classes)


def class_names(results: Results) -> list[str]:
    """Return the names of the classes that any run has an IoU of, in order."""
    runs = [run for by_seed in results.scores.values() for run in by_seed.values()]
    keys = dict.fromkeys(key for run in runs for values in run.values() for key in values if key.startswith("IoU-"))
    return [key.removeprefix("IoU-") for key in keys]


def class_means(results: Results, key: str, class_name: str, test_sets: Sequence[str] = ()) -> dict[int, float]:
    """Return seed -> IoU of a class, mean over the test sets that have a value; default: the unseen test sets."""
    return {
        seed: mean_of(run.get(name, {}).get(f"IoU-{class_name}", math.nan) for name in test_sets or results.unseen)
        for seed, run in results.scores[key].items()
    }
