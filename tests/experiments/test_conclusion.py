"""Conclusions in words."""

import math

import pytest

from clouds.experiments.conclusion import conclude, verdict
from clouds.experiments.statistics import Difference


def difference(mean: float, reach: float, first: str = "a", count: int = 3) -> Difference:
    return Difference(first, "b", mean, reach / 4.3, count, mean - reach, mean + reach)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (difference(2.0, 1.0), "better"),
        (difference(-2.0, 1.0), "worse"),
        (difference(2.0, 2.5), "no effect shown"),
        (Difference("a", "b", 2.0), "one seed shows no interval"),
        (Difference("a", "b", math.nan, count=0), "nothing to compare"),
    ],
)
def test_verdict(given: Difference, said: str) -> None:
    assert verdict(given) == said


def test_conclusion_names_the_effects() -> None:
    found = conclude([difference(2.0, 1.0, "up"), difference(-2.0, 1.5, "down"), difference(1.0, 9.0, "unclear")])
    assert found is not None
    assert found.sentence == (
        "Over 3 seeds, the 95 % interval excludes zero in 2 of 3 comparisons. No effect shown for the rest."
    )
    assert found.effects == [
        "“up” is better than “b” by 2.00 (95 % interval 1.00 to 3.00, over 3 seeds, t).",
        "“down” is worse than “b” by 2.00 (95 % interval 0.50 to 3.50, over 3 seeds, t).",
    ]


def test_no_effect() -> None:
    found = conclude([difference(1.0, 9.0), difference(0.0, 1.0)])
    assert found is not None
    assert found.sentence.startswith("No effect shown: over 3 seeds")
    assert not found.effects
    assert "better" not in found.sentence


def test_one_seed_and_no_comparison() -> None:
    one = conclude([Difference("a", "b", 20.0)])
    equal = conclude([Difference("a", "b", 0.0, count=3)])
    assert equal is not None
    assert equal.sentence == "No difference has an interval, so no effect is shown."
    assert one is not None
    assert one.sentence.startswith("One seed shows no interval")
    assert not one.effects
    assert conclude([]) is None


def test_intervals_over_images_say_so() -> None:
    images = Difference("up", "b", 2.0, 0.5, 250, 1.0, 3.0, unit="image")
    found = conclude([images])
    assert found is not None
    assert found.sentence == (
        "Over 250 images with the networks held fixed, the 95 % interval excludes zero in the only comparison."
    )
    assert found.effects == [
        "“up” is better than “b” by 2.00 (95 % interval 1.00 to 3.00, over 250 images, bootstrap)."
    ]
    mixed = conclude([images, difference(1.0, 9.0, count=5), Difference("a", "b", 1.0)])
    assert mixed is not None
    assert mixed.sentence == (
        "Over 250 images with the networks held fixed or 5 seeds, the 95 % interval excludes zero in 1 of 3 "
        "comparisons. No effect shown for the rest."
    )
    rest = conclude([difference(1.0, 9.0, count=5), Difference("a", "b", 1.0)])
    assert rest is not None
    assert rest.sentence == (
        "No effect shown: over 5 seeds, the 95 % interval of 1 of 2 comparisons, the others have none, contains zero."
    )
