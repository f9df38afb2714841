"""Statistics over repeated runs: mean, standard deviation, paired differences with confidence intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""Confidence level of the intervals."""


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
        error: standard error of the mean, std / sqrt(count); NaN for fewer than two pairs.
        count: number of pairs.
        low: lower end of the 95 % confidence interval of the mean; NaN for fewer than two pairs.
        high: upper end of the interval.
    """

    first: str
    second: str
    mean: float
    error: float = math.nan
    count: int = 1
    low: float = math.nan
    high: float = math.nan

    @property
    def label(self) -> str:
        """Names of both methods, for one cell of a table."""
        return f"{self.first} — less — {self.second}"

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero lies outside it: only then is an effect shown."""
        return self.low > 0 or self.high < 0


def summarize(values: Sequence[float]) -> Summary:
    """Return mean and standard deviation of the values, which may be none."""
    if not len(values):
        return Summary(math.nan, count=0)
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(float(np.mean(values)), std, len(values))


def paired_difference(first: str, second: str, values: Mapping[int, float], others: Mapping[int, float]) -> Difference:
    """Return the mean of `values` minus `others`, with Student's t interval.

    Args:
        first: name of the first method.
        second: name of the second method.
        values: seed -> score of the first method.
        others: seed -> score of the second method. Seeds that only one method has are left out.
    """
    pairs = summarize([values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())])
    if pairs.count < 2:
        return Difference(first, second, pairs.mean, count=pairs.count)
    error = pairs.std / math.sqrt(pairs.count)
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, pairs.count - 1))
    return Difference(first, second, pairs.mean, error, pairs.count, pairs.mean - reach, pairs.mean + reach)
