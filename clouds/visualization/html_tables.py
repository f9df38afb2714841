"""Scores and their differences as tables of a report."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from clouds.visualization.html import Html, element, figure, join, scrolling

_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Score:
    """Mean over runs and its standard deviation, in percent; a single run has no deviation, nan has none either."""

    mean: float
    std: float = math.nan
    count: int = 1


@dataclass(frozen=True)
class Difference:
    """Mean over pairs of runs of one minus the other, with its standard error, in percentage points; nan for none."""

    label: str
    mean: float
    error: float
    count: int


Cell = Score | float | None
Row = tuple[str, Sequence[Cell]]
"""Label and a cell a column: a mean and its deviation, a number, or None or nan for what was not measured."""

Best = Literal["column", "row"]


def score_table(
    columns: Sequence[str],
    rows: Sequence[Row | str],
    *,
    caption: str = "",
    corner: str = "",
    best: Best | None = "column",
    digits: int = 1,
) -> Html:
    """Scores in percent, their decimal points below each other.

    Args:
        columns: headings of the cells.
        rows: a row, or a plain string: the heading of the rows below it.
        caption: of the table.
        corner: heading of the labels.
        best: whether the highest score of each column or of each row is bold. Scores that look the same are the same;
            where all are, none is.
        digits: behind the decimal point.

    Raises:
        ValueError: a row has not as many cells as there are columns.
    """
    lines = [(row[0], [_score(cell) for cell in row[1]]) for row in rows if not isinstance(row, str)]
    for label, cells in lines:
        if len(cells) != len(columns):
            raise ValueError(f"row {label!r} has {len(cells)} cells for {len(columns)} columns")
    grid = [cells for _, cells in lines]
    marked = _best(grid, best, digits)
    spreads = [max((len(_spread(cell, digits)) for cell in cells), default=0) for cells in zip(*grid, strict=True)]
    spreads = spreads or [0] * len(columns)
    numbers = iter(
        element(
            "tr",
            element("th", label, scope="row"),
            *(_cell(*parts, digits) for parts in zip(cells, spreads, line, strict=True)),
        )
        for (label, cells), line in zip(lines, marked, strict=True)
    )
    head = [corner, *columns]
    texts = [(label, *(f"{_mean(cell, digits)}{_spread(cell, digits)}" for cell in cells)) for label, cells in lines]
    remark = _remark([cell for cells in grid for cell in cells], best if any(map(any, marked)) else None, digits)
    return _table(head, list(_bodies(rows, numbers, len(head))), caption, remark, _characters(head, texts))


def difference_table(
    rows: Iterable[Difference], *, caption: str = "", corner: str = "compared", digits: int = 2
) -> Html:
    """Paired differences, and in words whether each is larger than its standard error.

    Args:
        rows: the comparisons.
        caption: of the table.
        corner: heading of their labels.
        digits: behind the decimal point.
    """
    head = [corner, "difference", "standard error", "pairs", "larger than its standard error?"]
    lines = [
        (
            row.label,
            _DASH if math.isnan(row.mean) else _signed(row.mean, digits),
            _DASH if math.isnan(row.error) else f"{row.error:.{digits}f}",
            str(row.count),
            _verdict(row),
        )
        for row in rows
    ]
    body = [
        element(
            "tr",
            element("th", label, scope="row"),
            *(element("td", number, class_="number") for number in numbers),
            element("td", verdict),
        )
        for label, *numbers, verdict in lines
    ]
    bodies = [element("tbody", *body)] if body else []
    return _table(head, bodies, caption, "", _characters(head, lines), words=1)


def _verdict(row: Difference) -> str:
    """What a reader should make of a difference."""
    if math.isnan(row.mean):
        return "not known: nothing to compare"
    if row.count < 2:
        return "not known: a single pair has none"
    if math.isnan(row.error):
        return "not known"
    if abs(row.mean) <= row.error:
        return "no"
    return "yes" if row.error == 0 else f"yes, {abs(row.mean) / row.error:.1f} times"


def _table(
    head: Sequence[str], bodies: Sequence[Html], caption: str, remark: str, characters: int, words: int = 0
) -> Html:
    """Headings above bodies; the last `words` columns are text, not numbers."""
    kinds = ["", *["number"] * (len(head) - 1 - words), *[""] * words]
    headings = [
        element("th", _breakable(name), scope="col", class_=kind or None)
        for name, kind in zip(head, kinds, strict=True)
    ]
    nothing = element(
        "tbody", element("tr", element("td", "nothing measured yet", colspan=len(head), class_="missing"))
    )
    table = element(
        "table",
        element("thead", element("tr", *headings)),
        *(bodies or [nothing]),
        class_="scores",
        style=f"--characters:{characters}",  # by which the printed page chooses a size that fits
    )
    return figure(scrolling(table, caption or "Table"), caption, remark=remark, kind="table")


def _breakable(name: str) -> Html:
    """A name of a data set may go on in the next line after an underscore."""
    first, *others = name.split("_")
    return join([first, *(part for other in others for part in ("_", element("wbr"), other))])


def _bodies(rows: Sequence[Row | str], lines: Iterator[Html], width: int) -> Iterator[Html]:
    """The rows in one body a heading; `lines`: the rows that are no headings, drawn."""
    body: list[Html] = []
    for row in rows:
        if isinstance(row, str):
            if body:
                yield element("tbody", *body)
            body = [element("tr", element("th", row, colspan=width, scope="rowgroup"), class_="group")]
        else:
            body.append(next(lines))
    if body:
        yield element("tbody", *body)


def _cell(score: Score, spread: int, best: bool, digits: int) -> Html:
    """`spread`: characters that the widest deviation of the column takes, kept free in every cell of it."""
    mean, deviation = _mean(score, digits), _spread(score, digits)
    shown = element("strong", mean) if best else mean
    room = element("span", deviation, class_="spread", style=f"width:{spread * 0.62:.2f}em") if spread else Html()
    missing = math.isnan(score.mean)
    said = "not measured" if missing else f"{score.count} runs" if score.count > 1 else None
    kinds = ["number", *(["missing"] if missing else []), *(["best"] if best else [])]
    return element("td", join([shown, room]), class_=" ".join(kinds), title=said)


def _best(grid: Sequence[Sequence[Score]], best: Best | None, digits: int) -> list[list[bool]]:
    """Which cells are the best of their row or column, by what a reader can tell apart."""
    values = [[float(f"{cell.mean:.{digits}f}") for cell in cells] for cells in grid]
    if best == "column":
        columns = [_highest(column) for column in zip(*values, strict=True)]
        return [[column[row] for column in columns] for row in range(len(grid))]
    return [_highest(line) if best == "row" else [False] * len(line) for line in values]


def _highest(values: Sequence[float]) -> list[bool]:
    known = [value for value in values if not math.isnan(value)]
    return [bool(known) and min(known) < max(known) == value for value in values]


def _remark(cells: Sequence[Score], best: Best | None, digits: int) -> str:
    """How to read the table, as far as a reader could ask."""
    counts = {cell.count for cell in cells if _spread(cell, digits)}
    runs = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts, default=0)}"
    said = [f"mean ± standard deviation over {runs} runs"] if counts else []
    return "; ".join([*said, *([f"bold: the best of its {best}"] if best else [])])


def _characters(head: Sequence[str], lines: Iterable[tuple[str, ...]]) -> int:
    """Width of a table in characters: headings may break between words, cells may not, labels are taken as short."""
    words = [max(map(len, name.replace("_", "_ ").split()), default=0) for name in head]
    columns = zip(*([(line[0][:24], *line[1:]) for line in lines] or [tuple(head)]), strict=True)
    return sum(max(word, *map(len, cells)) + 2 for word, cells in zip(words, map(list, columns), strict=True))


def _score(cell: Cell) -> Score:
    if isinstance(cell, Score):
        return cell
    return Score(math.nan if cell is None else cell)


def _mean(score: Score, digits: int) -> str:
    return _DASH if math.isnan(score.mean) else _signed(score.mean, digits).removeprefix("+")


def _spread(score: Score, digits: int) -> str:
    known = score.count > 1 and not math.isnan(score.std) and not math.isnan(score.mean)
    return f" ± {score.std:.{digits}f}" if known else ""


def _signed(value: float, digits: int) -> str:
    """Rounded, with its sign, and none before a zero."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{_MINUS if value < 0 else '+'}{text}"
