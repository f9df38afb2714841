import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.visualization.html import Html
from clouds.visualization.html_tables import Cell, Difference, Score, difference_table, score_table
from tests.visualization.test_html_markup import parse

NUMBER = st.one_of(st.none(), st.just(math.nan), st.floats(-100, 100))


def grid(table: Html) -> list[list[str]]:
    """Text of the cells, row by row, without headings."""
    rows = parse(table).all("tr")[1:]
    return [[cell.text for cell in row.all("td")] for row in rows]


def best(table: Html) -> list[list[int]]:
    """Columns of the highlighted cells, row by row."""
    rows = parse(table).all("tr")[1:]
    return [[k for k, cell in enumerate(row.all("td")) if cell.all("strong")] for row in rows]


@pytest.mark.parametrize(
    ("cell", "digits", "text"),
    [
        (46.25, 1, "46.2"),
        (46.26, 1, "46.3"),
        (46, 2, "46.00"),
        (99.96, 1, "100.0"),
        (0.04, 1, "0.0"),
        (-0.04, 1, "0.0"),
        (-3.21, 1, "−3.2"),
        (7.5, 0, "8"),
        (None, 1, "–"),
        (math.nan, 1, "–"),
        (Score(46.26, 1.25, 3), 1, "46.3 ± 1.2"),
        (Score(46.26, 0, 2), 2, "46.26 ± 0.00"),
        (Score(46.26), 1, "46.3"),
        (Score(46.26, 0.5, 1), 1, "46.3"),
        (Score(math.nan, math.nan, 0), 1, "–"),
        (Score(math.nan, 1.0, 3), 1, "–"),
    ],
)
def test_numbers(cell: Cell, digits: int, text: str) -> None:
    assert grid(score_table(["a"], [("row", [cell])], digits=digits)) == [[text]]


def test_best_of_columns_and_rows() -> None:
    rows = [
        "group",
        ("first", [10.0, Score(30.04, 1, 3), None, 5.0]),
        "other",
        ("second", [20.0, Score(30.01, 1, 3), 1.0, 5.0]),
        ("third", [math.nan, 29.0, math.nan, 5.0]),
    ]
    columns = ["a", "b", "c", "d"]
    assert best(score_table(columns, rows)) == [[], [1], [], [0, 1], []], "30.0 twice, c and d have no contest"
    assert best(score_table(columns, rows, digits=2)) == [[], [1], [], [0], []]
    assert best(score_table(columns, rows, best="row")) == [[], [1], [], [1], [1]]
    assert best(score_table(columns, rows, best=None)) == [[], [], [], [], []]
    assert best(score_table(columns, [rows[1]])) == [[]], "one row is no contest"


@given(st.lists(st.lists(NUMBER, min_size=3, max_size=3), min_size=1, max_size=4))
def test_best_is_what_a_reader_would_mark(cells: list[list[float | None]]) -> None:
    table = score_table(["a", "b", "c"], [("row", line) for line in cells])
    texts, marked = grid(table), best(table)
    for column in range(3):
        values = [float(line[column].replace("−", "-")) if line[column] != "–" else None for line in texts]
        known = [value for value in values if value is not None]
        contest = len(set(known)) > 1
        expected = [contest and value is not None and value == max(known) for value in values]
        assert [column in line for line in marked] == expected


def test_columns_are_aligned_by_room_for_the_widest_deviation() -> None:
    rows = [("a", [Score(1, 10.5, 3), 1.0]), ("b", [Score(2, 0.5, 3), 2.0]), ("c", [3.0, 3.0]), ("d", [None, None])]
    root = parse(score_table(["x", "y"], rows))
    cells = root.all("td")
    assert all("number" in cell.attributes["class"].split() for cell in cells)
    rooms = [[room.attributes["style"] for room in cell.all("span", "spread")] for cell in cells]
    assert len(rooms[0]) == 1 and rooms[0] == rooms[2] == rooms[4] == rooms[6], "every cell of the first column"
    assert rooms[1] == rooms[3] == rooms[5] == rooms[7] == [], "none in the second"
    narrow = parse(score_table(["x"], [("a", [Score(1, 0.5, 3)])])).one("span", "spread")
    width, wider = (float(style.removeprefix("width:")[:-2]) for style in (narrow.attributes["style"], rooms[0][0]))
    assert width < wider


def test_headings_and_remark() -> None:
    rows = ["warm-up", ("frozen", [Score(1, 0.5, 3), 2.0]), "joint", ("all", [Score(2, 0.5, 3), 3.0])]
    root = parse(score_table(["city", "night"], rows, caption="mIoU", corner="variant"))
    assert [th.text for th in root.one("thead").all("th")] == ["variant", "city", "night"]
    assert [[th.text for th in body.all("th")] for body in root.all("tbody")] == [
        ["warm-up", "frozen"],
        ["joint", "all"],
    ]
    group = root.all("tr", "group")[0].one("th")
    assert group.attributes == {"colspan": "3", "scope": "rowgroup"}
    assert root.one("figcaption").text == "mIoUmean ± standard deviation over 3 runs; bold: the best of its column"
    assert [cell.attributes.get("title") for cell in root.all("td")] == ["3 runs", None, "3 runs", None]

    mixed = [("a", [Score(1, 1, 2)]), ("b", [Score(1, 1, 5)])]
    assert parse(score_table(["x"], mixed)).one("figcaption").text == "mean ± standard deviation over 2 to 5 runs"
    assert parse(score_table(["x"], [("a", [1.0]), ("b", [None])])).all("figcaption") == []


def test_tables_without_rows_or_columns() -> None:
    for table in (score_table(["a", "b"], []), difference_table([])):
        root = parse(table)
        assert root.one("td").text == "nothing measured yet"
        assert int(root.one("td").attributes["colspan"]) == len(root.one("thead").all("th"))
    assert grid(score_table([], [("a", []), ("b", [])])) == [[], []]
    assert grid(score_table(["a"], ["only a heading"])) == [[]]
    with pytest.raises(ValueError, match="row 'x' has 1 cells for 2 columns"):
        score_table(["a", "b"], [("x", [1.0])])


def test_wide_tables_tell_how_wide_they_are() -> None:
    def characters(columns: int) -> int:
        names = [f"set {k}" for k in range(columns)]
        table = parse(score_table(names, [("row", [Score(46.5, 1.5, 3)] * columns)])).one("table")
        return int(table.attributes["style"].removeprefix("--characters:"))

    assert characters(12) - characters(2) == 10 * (len("46.5 ± 1.5") + 2)


def test_names_of_sets_may_be_broken() -> None:
    heading = parse(score_table(["city_night_val"], [])).all("th")[1]
    assert heading.text == "city_night_val"
    parts = [part if isinstance(part, str) else part.name for part in heading.content]
    assert parts == ["city_", "wbr", "night_", "wbr", "val"]


@pytest.mark.parametrize(
    ("mean", "error", "count", "cells"),
    [
        (3.214, 0.61, 3, ["+3.21", "0.61", "3", "yes, 5.3 times"]),
        (-3.214, 0.61, 3, ["−3.21", "0.61", "3", "yes, 5.3 times"]),
        (0.61, 0.61, 3, ["+0.61", "0.61", "3", "no"]),
        (-0.001, 0.2, 4, ["0.00", "0.20", "4", "no"]),
        (0.0, 0.0, 2, ["0.00", "0.00", "2", "no"]),
        (1.0, 0.0, 2, ["+1.00", "0.00", "2", "yes"]),
        (1.0, math.nan, 1, ["+1.00", "–", "1", "not known: a single pair has none"]),
        (1.0, math.nan, 2, ["+1.00", "–", "2", "not known"]),
        (math.nan, math.nan, 0, ["–", "–", "0", "not known: nothing to compare"]),
    ],
)
def test_differences(mean: float, error: float, count: int, cells: list[str]) -> None:
    table = difference_table([Difference("joint − warm-up", mean, error, count)])
    assert grid(table) == [cells]
    assert [th.text for th in parse(table).one("tbody").all("th")] == ["joint − warm-up"]
