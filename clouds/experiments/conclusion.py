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
    with_interval = [each for each in differences if each.has_interval]
    if not with_interval:
        if max(each.count for each in differences) < 2:
            return Conclusion("One seed shows no interval: whether the differences repeat with other seeds is unknown.")
        return Conclusion("No difference has an interval, so no effect is shown.")
    shown = [each for each in with_interval if each.excludes_zero]
    count, others = len(differences), len(differences) - len(shown)
    over = _over(with_interval)
    if not shown:
        compared = f"all {count} comparisons" if count > 1 else "the only comparison"
        if len(with_interval) < count:
            compared = f"{len(with_interval)} of {count} comparisons, the others have none,"
        return Conclusion(f"No effect shown: {over}, the 95 % interval of {compared} contains zero.")
    compared = f"{len(shown)} of {count} comparisons" if count > 1 else "the only comparison"
    rest = " No effect shown for the rest." if others else ""
    return Conclusion(
        f"{over[0].upper()}{over[1:]}, the 95 % interval excludes zero in {compared}.{rest}",
        [_effect(each) for each in shown],
    )


def verdict(difference: Difference) -> str:
    """Return the conclusion from one difference, for a cell of a table."""
    if not difference.has_interval:
        return difference.reason
    if not difference.excludes_zero:
        return "no effect shown"
    return "better" if difference.mean > 0 else "worse"


def _over(differences: Sequence[Difference]) -> str:
    """The units of the intervals, such as "over 5 seeds"."""
    parts = []
    for unit in dict.fromkeys(each.unit for each in differences):
        counts = sorted({each.count for each in differences if each.unit == unit})
        number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        fixed = "" if unit == "seed" else " with the networks held fixed"
        parts.append(f"{number} {unit}s{fixed}")
    return f"over {' or '.join(parts)}"


def _effect(difference: Difference) -> str:
    low, high = sorted((abs(difference.low), abs(difference.high)))
    word = verdict(difference)
    return (
        f"“{difference.first}” is {word} than “{difference.second}” by {number(abs(difference.mean))} "
        f"(95 % interval {number(low)} to {number(high)}, {difference.basis})."
    )
