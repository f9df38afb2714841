"""Tables of scores as a report shows them: numbers as text, and which mean of a column is the highest."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from clouds.experiments.statistics import Summary

_MINUS, _DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
_LABEL = 24  # characters of a label that count for the width of a table: longer ones are wrapped
_NARROW = 44  # characters that fit on the screen of a telephone

Row = tuple[str, Sequence[Summary]]
"""Label and one cell for each column."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores in percent: a row for each method, a column for each test set.

    Attributes:
        columns: headings of the columns.
        groups: (heading, rows) in order; an empty heading is left out.
        digits: number of digits after the decimal point.
        mark_highest: whether the highest mean of each column is marked. The mark is no test: only an interval of a
            difference shows that a method is better.
        notes: sentences about rows, whose labels end in the sign at the beginning of the note.

    Raises:
        ValueError: a row of `groups` has another number of cells than `columns`.
    """

    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]
    digits: int = 2
    mark_highest: bool = True
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for label, cells in self._rows():
            if len(cells) != len(self.columns):
                raise ValueError(f"groups: row {label!r} has {len(cells)} cells for {len(self.columns)} columns")

    @cached_property
    def highest(self) -> list[str]:
        """The highest mean of each column as text; empty where no two means look different."""
        if not self.mark_highest:
            return [""] * len(self.columns)
        return [self._highest([cell.mean for cell in column]) for column in self._by_column()]

    @cached_property
    def spread(self) -> int:
        """Number of characters of the longest standard deviation."""
        return max((len(deviation(cell, self.digits)) for _, cells in self._rows() for cell in cells), default=0)

    @cached_property
    def characters(self) -> int:
        """Approximate width in characters."""
        widths = [
            max(*map(len, title.split()), *(len(number(cell.mean, self.digits)) + self.spread for cell in column), 0)
            for title, column in zip(self.columns, self._by_column(), strict=True)
        ]
        return _LABEL + sum(width + 2 for width in widths)

    @property
    def is_wide(self) -> bool:
        """Whether it is wider than the screen of a telephone."""
        return self.characters > _NARROW

    @property
    def remark(self) -> str:
        """Explanation of deviations and marks; empty if there are none."""
        counts = {cell.count for _, cells in self._rows() for cell in cells if cell.count > 1}
        runs = " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""
        remarks = [f"mean ± standard deviation over {runs} runs"] if counts else []
        marked = ["bold: the highest mean of its column, without a test"] if any(self.highest) else []
        return "; ".join([*remarks, *marked, *self.notes])

    def _rows(self) -> Iterator[Row]:
        return (row for _, rows in self.groups for row in rows)

    def _by_column(self) -> list[list[Summary]]:
        return [[cells[index] for _, cells in self._rows()] for index in range(len(self.columns))]

    def _highest(self, values: Sequence[float]) -> str:
        known = [value for value in values if not math.isnan(value)]
        lowest, highest = (number(pick(known, default=math.nan), self.digits) for pick in (min, max))
        return "" if lowest == highest else highest


def number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """Return a number as text: a dash for NaN, no sign for zero; `sign` adds a plus sign to positive numbers."""
    if math.isnan(value):
        return _DASH
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{_MINUS if value < 0 else '+' if sign else ''}{text}"


def deviation(summary: Summary, digits: int = 2) -> str:
    """Return the standard deviation with its sign, for example "± 0.45"; empty for a single run."""
    return "" if math.isnan(summary.std) else f"± {summary.std:.{digits}f}"
