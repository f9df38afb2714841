"""Tables as files: Markdown, LaTeX (package booktabs), and CSV with full precision."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from clouds.experiments.comparisons import Comparison
from clouds.experiments.conclusion import verdict
from clouds.experiments.statistics import Difference, Summary
from clouds.experiments.tables import ScoreTable, deviation, number

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{DAGGER}": r"\textdagger{}",
    "“": "``",
    "”": "''",
}
_SPACE = re.compile(r"\s+")
_DIFFERENCE = ("difference", "95 % interval over seeds", "", "95 % interval over images", "")


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        caption: sentence about it.
        header: headings of the columns.
        rows: cells of each row, as many as `header` has.
        numbers: index of the first column with numbers, which are aligned to the right; those before are text.
        bold: (row, column) of cells in bold.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1
    bold: frozenset[tuple[int, int]] = frozenset()


def score_table(table: ScoreTable, caption: str) -> TextTable:
    """Return the texts of a table of scores."""
    rows: list[list[str]] = []
    bold: set[tuple[int, int]] = set()
    for _, lines in table.groups:
        for label, cells in lines:
            for column, (cell, highest) in enumerate(zip(cells, table.highest, strict=True), 1):
                if highest and number(cell.mean, table.digits) == highest:
                    bold.add((len(rows), column))
            rows.append([label, *(_score(cell, table.digits) for cell in cells)])
    sentence = ". ".join(filter(None, [caption, table.remark[:1].upper() + table.remark[1:]]))
    return TextTable(f"{sentence}.", ["", *table.columns], rows, bold=frozenset(bold))


def difference_table(comparisons: Sequence[Comparison], classes: bool = False) -> TextTable:
    """Return the texts of all differences, or with `classes` of those by class."""
    rows = [
        [
            *(comparison.label, each.label, number(each.shown.mean, sign=True)),
            *_interval(each.seeds),
            *(_interval(each.images) if each.images else ["", ""]),
        ]
        for comparison in comparisons
        for each in (comparison.classes if classes else comparison.rows)
    ]
    score = "IoU by class, mean over the unseen test sets" if classes else "mIoU"
    return TextTable(
        f"Differences in {score}, in percentage points.",
        ["compared", "class" if classes else "on", *_DIFFERENCE],
        rows,
        numbers=2,
    )


def to_markdown(table: TextTable) -> str:
    """Return the table in Markdown, with its caption below."""
    rows = [
        [f"**{_markdown(cell)}**" if (i, j) in table.bold else _markdown(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    align = ["---" if index < table.numbers else "---:" for index in range(len(table.header))]
    lines = [f"| {' | '.join(row)} |" for row in [list(map(_markdown, table.header)), align, *rows]]
    return "\n".join([*lines, "", _markdown(table.caption), ""])


def to_latex(table: TextTable, label: str) -> str:
    """Return the table in LaTeX, for a document with the package booktabs.

    Args:
        table: the table.
        label: name by which the document refers to it.
    """
    rows = [
        [rf"\textbf{{{_latex(cell)}}}" if (i, j) in table.bold else _latex(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    align = "l" * table.numbers + "r" * (len(table.header) - table.numbers)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            rf"{' & '.join(map(_latex, table.header))} \\",
            r"\midrule",
            *(rf"{' & '.join(row)} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def scores_csv(table: ScoreTable) -> str:
    """Return the scores with full precision: group, row, then mean, standard deviation and number of runs by column."""
    heads = [f"{title} {kind}" for title in table.columns for kind in ("mean", "std", "n")]
    rows = [
        [group, label, *(value for cell in cells for value in (*map(_plain, (cell.mean, cell.std)), str(cell.count)))]
        for group, lines in table.groups
        for label, cells in lines
    ]
    return _csv(["group", "row", *heads], rows)


def differences_csv(comparisons: Sequence[Comparison], classes: bool = False) -> str:
    """Return the differences with full precision: a row for each interval, with its unit and number of units."""
    rows = []
    for comparison in comparisons:
        for each in comparison.classes if classes else comparison.rows:
            for found in filter(None, (each.seeds, each.images)):
                values = map(_plain, (found.mean, found.error, found.low, found.high))
                about = [comparison.first, comparison.second, each.label, found.unit, str(found.count)]
                rows.append([*about, *values, verdict(found)])
    header = ["first", "second", "class" if classes else "on", "unit", "n", "difference", "error", "low", "high"]
    return _csv([*header, "conclusion"], rows)


def _score(cell: Summary, digits: int) -> str:
    return f"{number(cell.mean, digits)} {deviation(cell, digits)}".rstrip()


def _interval(difference: Difference) -> list[str]:
    """The interval with its basis, and the conclusion."""
    if not difference.has_interval:
        return ["", difference.reason]
    ends = f"{number(difference.low, sign=True)} to {number(difference.high, sign=True)}"
    return [f"{ends} ({difference.basis})", verdict(difference)]


def _plain(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", _SPACE.sub(" ", text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _SPACE.sub(" ", text))
