"""Numbers as text, and the highest of them."""

import math

import pytest

from clouds.experiments.statistics import Summary
from clouds.experiments.tables import ScoreTable, deviation, number


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (46.25, 1, False, "46.2"),
        (46.26, 1, False, "46.3"),
        (46, 2, False, "46.00"),
        (-0.04, 1, True, "0.0"),
        (-3.21, 1, False, "−3.2"),
        (-3.21, 2, True, "−3.21"),
        (3.21, 2, True, "+3.21"),
        (math.nan, 1, True, "–"),
    ],
)
def test_number(value: float, digits: int, sign: bool, text: str) -> None:
    assert number(value, digits, sign=sign) == text


def test_deviation() -> None:
    assert deviation(Summary(1.0, 0.456, 3), 1) == "± 0.5"
    assert deviation(Summary(1.0)) == ""


def table(*lines: list[float], **options: object) -> ScoreTable:
    rows = [(str(index), [Summary(value) for value in line]) for index, line in enumerate(lines)]
    return ScoreTable([f"column {index}" for index in range(len(lines[0]))], [("", rows)], **options)


def test_highest_of_each_column_by_what_is_shown() -> None:
    lines = [10.0, 30.04, math.nan, 5.0], [20.0, 30.01, 1.0, 5.0], [math.nan, 29.0, math.nan, 5.0]
    assert table(*lines).highest == ["20.00", "30.04", "", ""], "one score and equal ones have no highest"
    assert table(*lines, digits=1).highest == ["20.0", "30.0", "", ""]
    assert table(*lines, mark_highest=False).highest == [""] * 4
    assert table([math.nan], [math.nan]).highest == [""]


def test_remark_explains_what_is_there() -> None:
    assert table([1.0]).remark == ""
    assert table([1.0], [2.0]).remark == "bold: the highest mean of its column, without a test"
    rows = [("a", [Summary(1.0, 0.5, 2)]), ("b", [Summary(2.0, 0.5, 5)]), ("c", [Summary(2.0)])]
    both = ScoreTable(["x"], [("", rows)])
    assert (
        both.remark
        == "mean ± standard deviation over 2 to 5 runs; bold: the highest mean of its column, without a test"
    )
    assert ScoreTable(["x"], [("", rows[:1])]).remark == "mean ± standard deviation over 2 runs"


def test_width_counts_the_deviations() -> None:
    plain = ScoreTable(["x", "y"], [("", [("a", [Summary(11.1), Summary(2.2)])])])
    spread = ScoreTable(["x", "y"], [("", [("a", [Summary(11.1, 0.5, 3), Summary(2.2)])])])
    assert spread.characters - plain.characters == 2 * len("± 0.50")
    assert not plain.is_wide
    assert table([1.0] * 9).is_wide
    assert ScoreTable(["x"], []).characters > 0


def test_row_with_missing_cells() -> None:
    with pytest.raises(ValueError, match="groups: row '1' has 1 cells for 2 columns"):
        table([1.0, 2.0], [1.0])
