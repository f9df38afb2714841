"""Statistics against scipy and by hand, and the coverage of the bootstrap by simulation."""

import math
import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clouds.evaluation.files import mean_iou
from clouds.experiments.statistics import (
    Difference,
    PairedCounts,
    bootstrap_differences,
    paired_difference,
    summarize,
)

VALUES = st.floats(-100, 100)
NAN = math.nan


def test_summary_by_hand() -> None:
    found = summarize([1.0, 2.0, 6.0])
    assert (found.mean, found.std, found.count) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)), 3)
    assert summarize([5.0]).mean == 5.0
    assert math.isnan(summarize([5.0]).std)
    for none in ([], [NAN]):
        assert math.isnan(summarize(none).mean)
        assert summarize(none).count == 0
    assert summarize([1.0, NAN, 3.0]) == summarize([1.0, 3.0])


def test_pairs_are_the_common_seeds() -> None:
    found = paired_difference("a", "b", {1: 3.0, 2: 5.0, 3: 10.0, 7: NAN, 9: 0.0}, {1: 2.0, 2: 3.0, 3: 4.0, 7: 1.0})
    assert (found.mean, found.count, found.left_out) == (3.0, 3, 2)
    assert found.error == pytest.approx(math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3))
    assert found.label == "a — less — b"
    assert found.basis == "over 3 seeds, t"


def test_interval_of_the_example_of_scipy() -> None:
    """The example of `scipy.stats.ttest_1samp` has 95 % confidence limits in its documentation."""
    rng = np.random.default_rng()
    sample = stats.norm.rvs(size=50, random_state=rng)
    expected = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    found = paired_difference("a", "b", dict(enumerate(sample)), dict.fromkeys(range(50), 0.0))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=8))
def test_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = paired_difference("a", "b", dict(enumerate(first)), dict(enumerate(second)))
    if not found.error > 1e-6:  # scipy warns of a loss of precision
        assert not found.has_interval or found.low <= found.mean <= found.high
        return
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    if abs(expected.pvalue - 0.05) > 1e-6:
        assert found.excludes_zero == (expected.pvalue < 0.05)


@given(st.lists(VALUES, min_size=2, max_size=8), st.floats(-10, 10))
def test_a_constant_difference_has_no_interval(numbers: list[float], gain: float) -> None:
    seeds = dict(enumerate(numbers))
    found = paired_difference("a", "b", {seed: value + gain for seed, value in seeds.items()}, seeds)
    assert found.mean == pytest.approx(gain, abs=1e-9)
    assert not found.has_interval
    assert not found.excludes_zero
    assert found.reason == "equal in all seeds, no interval"


def test_one_pair_or_none_has_no_interval() -> None:
    one, none, nan = (paired_difference("a", "b", {1: 3.0}, others) for others in ({1: 1.0}, {2: 1.0}, {1: NAN}))
    assert (one.mean, one.count, one.left_out, none.count, none.left_out, nan.count) == (2.0, 1, 0, 0, 2, 0)
    assert [each.reason for each in (one, none, nan)] == ["one seed shows no interval", *["nothing to compare"] * 2]
    for each in (none, nan):
        assert math.isnan(each.mean)
    for each in (one, none):
        assert math.isnan(each.error)
        assert not each.excludes_zero
    assert one.basis == "over 1 seed, t"


@pytest.mark.parametrize(("low", "high", "shown"), [(0.1, 1, True), (-1, -0.1, True), (-1, 1, False), (0, 1, False)])
def test_an_effect_is_shown_where_the_interval_excludes_zero(low: float, high: float, shown: bool) -> None:
    assert Difference("a", "b", (low + high) / 2, 1.0, 3, low, high).excludes_zero is shown


# The bootstrap. Dimensions: S seeds, N images, C classes.
RATES = np.linspace([0.5, 0.45], [0.95, 0.94], 5)  # (C, methods): share of a class that is found in an easy image
FALSE = np.array([0.2, 0.25])  # (methods,): other pixels per true one in a hard image
SIZES = np.linspace(0.3, 3, 5)  # (C,) shape of the distribution of a class's area: rare classes are in few images


def drawn(rng: np.random.Generator, images: int, folders: int = 0) -> list[npt.NDArray[np.int64]]:
    """Counts of two networks, (1, N, 3, C) each, in images that are easy or hard for all classes, partly for both.

    With `folders`, all images of a folder are equally hard.
    """
    area = rng.gamma(SIZES, 1000, (images, 5))
    both, *own = np.repeat(rng.beta(6, 3, (3, folders or images)), images // folders if folders else 1, axis=1)
    counts = []
    for rate, false, each in zip(RATES.T, FALSE, own, strict=True):
        ease = (both + each)[:, None] / 2
        found = area * rate * ease * rng.uniform(0.5, 1, (images, 5))
        counts.append(np.stack([found, found + area * false * (1.5 - ease), area], axis=1)[None].astype(int))
    return counts


def true_difference() -> float:
    """Difference of mIoU in all images that `drawn` can draw: the ratios of the expected counts."""
    found, others = RATES * (6 / 9) * 0.75, FALSE * (1.5 - 6 / 9)
    first, second = (100 * found / (1 + others)).mean(axis=0)
    return float(first - second)


def coverage(draws: int, folders: int = 0, unit: str = "image") -> Mapping[str, float]:
    """Share in percent of intervals over 200 images that contain the true difference, and of ones of half the width."""
    rng, truth, hits = np.random.default_rng(0), true_difference(), {"whole": 0, "half": 0}
    names = [str(image * folders // 200) for image in range(200)]
    for draw in range(draws):
        counts = PairedCounts(*drawn(rng, 200, folders), names)
        found = bootstrap_differences("a", "b", [counts], unit, resamples=200, seed=draw).mean
        middle, reach = (found.low + found.high) / 2, (found.high - found.low) / 2
        hits["whole"] += abs(truth - middle) <= reach
        hits["half"] += abs(truth - middle) <= reach / 2
    return {name: 100 * count / draws for name, count in hits.items()}


def test_true_difference_is_that_of_many_images() -> None:
    first, second = (mean_iou(each.sum(axis=(0, 1)), "left_out") for each in drawn(np.random.default_rng(1), 200_000))
    assert first - second == pytest.approx(true_difference(), abs=0.1)


@pytest.mark.slow
def test_coverage_of_the_bootstrap_over_images() -> None:
    found = coverage(2000)
    assert 92 <= found["whole"] <= 97
    assert found["half"] < 80, "an interval of another width is found out"


def test_coverage_needs_the_right_unit() -> None:
    """In folders of images that are alike, images are the wrong unit: their interval is too narrow."""
    assert 90 <= coverage(200, folders=40, unit="folder")["whole"] <= 97
    assert coverage(200, folders=40, unit="image")["whole"] < 80


def test_bootstrap_of_the_example_of_scipy() -> None:
    """With one class and as many pixels in each image, mIoU is a mean, whose interval scipy has."""
    rng = np.random.default_rng(3)
    right = rng.integers(0, 1000, (2, 60))
    counts = np.stack([right, np.full((2, 60), 1000), np.full((2, 60), 1000)], axis=2)[..., None]
    counts[:, :, 1] = counts[:, :, 0]  # nothing is predicted beside it, so IoU = found / true
    sets = [PairedCounts(counts[:1], counts[1:], [""] * 60)]
    found = bootstrap_differences("a", "b", sets, seed=5).mean
    expected = stats.bootstrap(
        (right[0] / 10, right[1] / 10), lambda a, b, axis: (a - b).mean(axis), paired=True, n_resamples=2000,
        method="percentile", rng=np.random.default_rng(5),
    )  # fmt: skip
    interval = expected.confidence_interval
    assert found.mean == pytest.approx((right[0] - right[1]).mean() / 10)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.error == pytest.approx(expected.standard_error)
    assert (found.basis, found.reason) == ("over 60 images, bootstrap", "")


def test_bootstrap_of_sets_and_classes() -> None:
    rng = np.random.default_rng(4)
    sets = [PairedCounts(*(np.concatenate([each] * 2) for each in drawn(rng, size)), [""] * size) for size in (30, 50)]
    found = bootstrap_differences("a", "b", sets, resamples=200)
    assert found == bootstrap_differences("a", "b", sets, resamples=200), "the seed is fixed"
    assert [each.count for each in (found.mean, *found.by_set)] == [80, 30, 50]
    assert found.mean.mean == pytest.approx(np.mean([each.mean for each in found.by_set]))
    assert found.mean.mean == pytest.approx(np.mean([each.mean for each in found.by_class]))
    assert all(each.low < each.mean < each.high for each in (found.mean, *found.by_set, *found.by_class))


def test_equal_networks_and_absent_classes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = drawn(np.random.default_rng(5), 30)[0]
        counts[..., 4] = 0
        counts[0, 1:, :, 3] = 0
        found = bootstrap_differences("a", "b", [PairedCounts(counts, counts, [""] * 30)], resamples=100)
    assert (found.mean.mean, found.mean.low, found.mean.high) == (0, 0, 0)
    assert not found.mean.excludes_zero
    assert found.by_class[4].reason == "nothing to compare"
    assert found.by_class[3].reason == "a class is missing in resamples"
    assert found.by_class[2].has_interval


def test_few_units_have_no_interval() -> None:
    counts = drawn(np.random.default_rng(6), 60)
    three = bootstrap_differences("a", "b", [PairedCounts(*counts, ["u", "v", "w"] * 20)], "folder").mean
    assert (three.count, three.reason, three.basis) == (3, "3 folders are too few", "over 3 folders, bootstrap")
    many = bootstrap_differences("a", "b", [PairedCounts(*counts, [str(i // 2) for i in range(60)])], "folder").mean
    assert (many.count, many.has_interval) == (30, True)
    assert many.mean == pytest.approx(three.mean)
    with pytest.raises(ValueError, match="sets: there is no test set"):
        bootstrap_differences("a", "b", [])
