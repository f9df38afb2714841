"""Conclusion of an experiment in words: a method is called better only if an interval excludes zero."""

from collections.abc import Sequence
from dataclasses import dataclass

from clouds.experiments.statistics import Difference
from clouds.experiments.tables import number


@dataclass(frozen=True)
class Conclusion:
    """Conclusion from the differences of an experiment.

    Attributes:
        sentence: the conclusion.
        effects: one sentence for each difference whose interval excludes zero.
    """

    sentence: str
    effects: Sequence[str] = ()


def conclude(differences: Sequence[Difference]) -> Conclusion | None:
    """Return the conclusion from paired differences in percentage points; None without differences."""
    if not differences:
        return None
    seeds = max(each.count for each in differences)
    if seeds < 2:
        return Conclusion(
            "One seed shows no interval: whether the differences below repeat with other seeds is unknown."
        )
    shown = [each for each in differences if each.excludes_zero]
    count, others = len(differences), len(differences) - len(shown)
    if not shown:
        compared = f"all {count} comparisons" if others > 1 else "the only comparison"
        return Conclusion(f"No effect shown: over {seeds} seeds, the 95 % interval of {compared} contains zero.")
    compared = f"{len(shown)} of {count} comparisons" if count > 1 else "the only comparison"
    rest = " No effect shown for the rest." if others else ""
    return Conclusion(
        f"Over {seeds} seeds, the 95 % interval excludes zero in {compared}.{rest}", [_effect(each) for each in shown]
    )


def verdict(difference: Difference) -> str:
    """Return the conclusion from one difference, for a cell of a table."""
    if difference.count < 2:
        return "one seed shows no interval" if difference.count else "nothing to compare"
    if not difference.excludes_zero:
        return "no effect shown"
    return "better" if difference.mean > 0 else "worse"


def _effect(difference: Difference) -> str:
    low, high = sorted((abs(difference.low), abs(difference.high)))
    word = verdict(difference)
    return (
        f"“{difference.first}” is {word} than “{difference.second}” by {number(abs(difference.mean))} "
        f"(95 % interval {number(low)} to {number(high)})."
    )
