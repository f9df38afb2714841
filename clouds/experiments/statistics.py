"""Statistics of repeated runs: mean, standard deviation, and paired differences with 95 % confidence intervals.

There are two kinds of intervals, and each states its unit:

* over seeds, Student's t: how far the mean difference would change with other seeds, the test images held fixed;
* over images or folders of images, paired bootstrap: how far it would change with other images, the networks held
  fixed.

Dimensions: S seeds, N images, C classes, R resamples.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from clouds.data.protocols import Absent
from clouds.evaluation.files import class_iou, mean_iou

CONFIDENCE = 0.95
"""Confidence level of the intervals."""
RESAMPLES = 2000
"""Number of resamples of a bootstrap."""
FEWEST = 20
"""Number of images or folders below which there is no bootstrap interval.

In simulations of nominal 95 %, the percentile interval covers 94 % with 200 units, 93 % with 40, 90 % with 20 and 84 %
with 5; BCa covers no more.
"""

Unit = Literal["image", "folder"]
"""Unit that a bootstrap resamples: images, or folders of images, such as cities or recordings."""

_EQUAL = 1e-9  # percentage points: differences of seeds that rounding alone makes
_BATCH = 1 << 21  # numbers of images drawn at once


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1) of repeated runs.

    Attributes:
        mean: arithmetic mean; NaN without runs.
        std: sample standard deviation; NaN for fewer than two runs.
        count: number of runs.
    """

    mean: float
    std: float = math.nan
    count: int = 1


@dataclass(frozen=True)
class Difference:
    """Mean paired difference between two methods, the first minus the second.

    Attributes:
        first: name of the first method.
        second: name of the second method.
        mean: mean of the differences, in the unit of the scores; NaN without pairs.
        error: standard error of the mean; NaN without an interval.
        count: number of pairs: seeds, images or folders.
        low: lower end of the 95 % confidence interval of the mean; NaN if there is no interval.
        high: upper end of the interval.
        unit: kind of the pairs.
        left_out: number of seeds that only one method has, or without a score of one.
    """

    first: str
    second: str
    mean: float
    error: float = math.nan
    count: int = 1
    low: float = math.nan
    high: float = math.nan
    unit: Literal["seed", Unit] = "seed"
    left_out: int = 0

    @property
    def label(self) -> str:
        """Names of both methods, for one cell of a table."""
        return f"{self.first} — less — {self.second}"

    @property
    def basis(self) -> str:
        """Unit and method of the interval, such as "over 5 seeds, t" or "over 50 images, bootstrap"."""
        number = f"{self.count:,} {self.unit}{'' if self.count == 1 else 's'}"
        return f"over {number}, {'t' if self.unit == 'seed' else 'bootstrap'}"

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero lies outside it: only then is an effect shown."""
        return self.low > 0 or self.high < 0

    @property
    def reason(self) -> str:
        """Reason why there is no interval; empty if there is one."""
        if self.has_interval:
            return ""
        if math.isnan(self.mean):
            return "nothing to compare"
        if self.unit != "seed":
            few = self.count < FEWEST
            return f"{self.count} {self.unit}s are too few" if few else "a class is missing in resamples"
        return "one seed shows no interval" if self.count < 2 else "equal in all seeds, no interval"


class PairedCounts(NamedTuple):
    """Pixels of two methods on the images of one test set: true positives, predicted, true pixels by class.

    Attributes:
        first: (S, N, 3, C) counts of the first method.
        second: (S', N, 3, C) counts of the second method on the same images.
        groups: (N,) name of the folder of each image.
        absent: rule for a class that is predicted but not in the ground truth, see `Scores`.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    groups: Sequence[str]
    absent: Absent = "left_out"


class Bootstrapped(NamedTuple):
    """Differences with bootstrap intervals.

    Attributes:
        mean: difference of the mean mIoU over the test sets.
        by_set: difference of the mIoU on each test set.
        by_class: difference of the IoU of each class, mean over the test sets that have a value.
    """

    mean: Difference
    by_set: list[Difference]
    by_class: list[Difference]


def summarize(values: Sequence[float]) -> Summary:
    """Return mean and standard deviation of the values that are not NaN, of which there may be none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Summary(math.nan, count=0)
    std = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    return Summary(float(np.mean(known)), std, len(known))


def paired_difference(first: str, second: str, values: Mapping[int, float], others: Mapping[int, float]) -> Difference:
    """Return the mean of `values` minus `others`, with Student's t interval.

    There is no interval if the differences of all seeds are equal: they do not show how other seeds vary.

    Args:
        first: name of the first method.
        second: name of the second method.
        values: seed -> score of the first method; NaN for none.
        others: seed -> score of the second method. Seeds that only one method has are left out.
    """
    seeds = sorted(values.keys() | others.keys())
    differences = [values.get(seed, math.nan) - others.get(seed, math.nan) for seed in seeds]
    pairs = summarize(differences)
    left_out = len(seeds) - pairs.count
    if pairs.count < 2 or pairs.std < _EQUAL:
        return Difference(first, second, pairs.mean, count=pairs.count, left_out=left_out)
    error = pairs.std / math.sqrt(pairs.count)
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, pairs.count - 1))
    low, high = pairs.mean - reach, pairs.mean + reach
    return Difference(first, second, pairs.mean, error, pairs.count, low, high, left_out=left_out)


def bootstrap_differences(
    first: str,
    second: str,
    sets: Sequence[PairedCounts],
    unit: Unit = "image",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrapped:
    """Return differences of mIoU and IoU in percentage points, with percentile intervals of a paired bootstrap.

    A resample draws as many images of each set as it has, with replacement, the same ones for both methods and all
    seeds. Its score is that of a set: the counts are added up before they are divided. Scores are means over the seeds.
    The networks are held fixed, so the intervals say nothing about other seeds.

    Args:
        first: name of the first method.
        second: name of the second method.
        sets: counts on the images of each test set, all with the same classes.
        unit: draw images, or folders of images with all their images.
        resamples: R, number of resamples.
        seed: seed of the resamples.

    Raises:
        ValueError: there is no set.
    """
    if not sets:
        raise ValueError("sets: there is no test set")
    units = [_Units.of(each, unit) for each in sets]

    def statistic(*drawn: npt.NDArray[np.int64], axis: int = -1) -> npt.NDArray[np.float64]:
        """(1 + sets + C, R) differences of resamples; `drawn`: (R, units) numbers of units of each set."""
        miou, iou = zip(*(each.differences(numbers) for each, numbers in zip(units, drawn, strict=True)), strict=True)
        values = np.concatenate([np.mean(miou, axis=0)[:, None], np.stack(miou, axis=1), _mean(np.stack(iou))], axis=1)
        return values.T if drawn[0].ndim > 1 else values[0]

    numbers = [np.arange(each.count) for each in units]
    counts = [each.count for each in units]
    found = statistic(*numbers)
    ends = np.full((3, len(found)), math.nan)
    if min(counts) >= FEWEST:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # a class without a value in some resamples
            result = stats.bootstrap(
                numbers, statistic, n_resamples=resamples, vectorized=True, method="percentile",
                confidence_level=CONFIDENCE, rng=np.random.default_rng(seed), batch=max(1, _BATCH // max(counts)),
            )  # fmt: skip
        ends = np.stack([result.standard_error, *result.confidence_interval])
    sizes = [sum(counts), *counts, *[sum(counts)] * (len(found) - 1 - len(counts))]
    differences = [
        Difference(first, second, float(mean), float(error), count, float(low), float(high), unit)
        for mean, error, low, high, count in zip(found, *ends, sizes, strict=True)
    ]
    return Bootstrapped(differences[0], differences[1 : 1 + len(sets)], differences[1 + len(sets) :])


@dataclass(frozen=True)
class _Units:
    """Counts of the units of one set; `values`: (units, S * 3 * C) of each method."""

    count: int
    values: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    classes: int
    absent: Absent

    @classmethod
    def of(cls, counts: PairedCounts, unit: Unit) -> "_Units":
        """Add up the counts of the images of each unit."""
        images = len(counts.groups)
        groups = np.unique(counts.groups, return_inverse=True)[1] if unit == "folder" else np.arange(images)
        count = int(groups.max(initial=-1)) + 1

        def added(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            rows = values.swapaxes(0, 1).reshape(images, -1)
            sums = np.zeros((count, rows.shape[1]))
            np.add.at(sums, groups, rows)
            return sums

        return cls(count, (added(counts.first), added(counts.second)), counts.first.shape[-1], counts.absent)

    def differences(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(R,) differences of mIoU and (R, C) of IoU, for (R, units) or (units,) numbers of the drawn units."""
        rows = np.atleast_2d(numbers)
        cells = rows + np.arange(len(rows))[:, None] * self.count
        weights = np.bincount(cells.ravel(), minlength=len(rows) * self.count).reshape(len(rows), -1).astype(np.float64)
        sums = [(weights @ each).reshape(len(rows), -1, 3, self.classes) for each in self.values]
        miou = [mean_iou(each, self.absent).mean(axis=1) for each in sums]
        iou = [class_iou(each, self.absent).mean(axis=1) for each in sums]
        return miou[0] - miou[1], iou[0] - iou[1]


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over the first axis of what is not NaN; NaN if nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.divide(np.where(known, values, 0).sum(axis=0), count, out=np.full(count.shape, math.nan), where=count > 0)
