"""Statistics against scipy and by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clouds.experiments.statistics import Difference, paired_difference, summarize

VALUES = st.floats(-100, 100)


def test_summary_by_hand() -> None:
    found = summarize([1.0, 2.0, 6.0])
    assert (found.mean, found.std, found.count) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)), 3)
    assert summarize([5.0]).mean == 5.0
    assert math.isnan(summarize([5.0]).std)
    assert math.isnan(summarize([]).mean)
    assert summarize([]).count == 0


def test_pairs_are_the_common_seeds() -> None:
    found = paired_difference("a", "b", {1: 3.0, 2: 5.0, 3: 10.0, 9: 0.0}, {1: 2.0, 2: 3.0, 3: 4.0})
    assert (found.mean, found.count) == (3.0, 3)
    assert found.error == pytest.approx(math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3))
    assert found.label == "a — less — b"


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=8))
def test_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = paired_difference("a", "b", dict(enumerate(first)), dict(enumerate(second)))
    if found.error < 1e-6:  # scipy warns of a loss of precision
        assert found.low <= found.mean <= found.high
        return
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    if abs(expected.pvalue - 0.05) > 1e-6:
        assert found.excludes_zero == (expected.pvalue < 0.05)


@given(st.lists(VALUES, min_size=2, max_size=8), st.floats(-10, 10))
def test_a_constant_difference_has_no_error(numbers: list[float], gain: float) -> None:
    seeds = dict(enumerate(numbers))
    found = paired_difference("a", "b", {seed: value + gain for seed, value in seeds.items()}, seeds)
    assert (found.mean, found.low, found.high) == (pytest.approx(gain, abs=1e-9),) * 3
    assert found.error == pytest.approx(0, abs=1e-9)


def test_one_pair_or_none_has_no_interval() -> None:
    one, none = (paired_difference("a", "b", {1: 3.0}, others) for others in ({1: 1.0}, {2: 1.0}))
    assert (one.mean, one.count, none.count) == (2.0, 1, 0)
    assert math.isnan(none.mean)
    for each in (one, none):
        assert math.isnan(each.error)
        assert math.isnan(each.low)
        assert not each.excludes_zero


@pytest.mark.parametrize(("low", "high", "shown"), [(0.1, 1, True), (-1, -0.1, True), (-1, 1, False), (0, 1, False)])
def test_an_effect_is_shown_where_the_interval_excludes_zero(low: float, high: float, shown: bool) -> None:
    assert Difference("a", "b", (low + high) / 2, 1.0, 3, low, high).excludes_zero is shown
