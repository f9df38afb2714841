import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.visualization.charts import COLORS, WIDTH, grouped_bars, line_chart, round_ticks, thin
from clouds.visualization.html import Html
from tests.visualization.test_html_markup import Node, parse

VALUE = st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-6)


def box(chart: Html) -> tuple[float, float]:
    """Width and height of the drawing."""
    left, top, width, height = map(float, parse(chart).one("svg", "drawing").attributes["viewbox"].split())
    assert (left, top) == (0, 0)
    return width, height


def bars(chart: Html) -> list[Node]:
    return parse(chart).one("svg", "drawing").all("rect")


def curves(chart: Html) -> list[list[list[tuple[float, float]]]]:
    """Points of each unbroken piece of each curve."""
    paths = parse(chart).one("svg", "drawing").all("path", "curve")
    pieces = [path.attributes["d"].split("M")[1:] for path in paths]
    return [[[tuple(map(float, point.split())) for point in piece.split("L")] for piece in line] for line in pieces]


def labels(chart: Html) -> list[str]:
    return [node.text for node in parse(chart).one("svg", "drawing").all("text")]


@given(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=5))
def test_bars_are_as_long_as_their_values(values: list[tuple[float, float]]) -> None:
    series = {"a": [a for a, _ in values], "b": [b for _, b in values]}
    chart = grouped_bars([f"class {k}" for k in range(len(values))], series)
    drawn, flat = bars(chart), [v for pair in values for v in pair]
    assert len(drawn) == len(flat)
    width, height = box(chart)
    zero = next(line.number("x1") for line in parse(chart).all("line", "zero"))
    longest = max(flat, key=abs)
    unit = next(bar.number("width") for bar, v in zip(drawn, flat, strict=True) if v == longest) / (abs(longest) or 1)
    for bar, value in zip(drawn, flat, strict=True):
        assert bar.number("width") == pytest.approx(abs(value) * unit, abs=0.02)
        assert bar.number("x") == pytest.approx(zero - (abs(value) * unit if value < 0 else 0), abs=0.02)
        assert bar.number("x") >= 0 and bar.number("x") + bar.number("width") <= width
        assert bar.number("y") >= 0 and bar.number("y") + bar.number("height") <= height
    if longest:
        assert unit * abs(longest) > 80, "the plot is used"
    tops = [bar.number("y") for bar in drawn]
    assert tops == sorted(tops) and len(set(tops)) == len(tops), "none covers another"


def test_bars_tell_their_values_names_and_what_is_missing() -> None:
    chart = grouped_bars(["road", "sky"], {"warm-up": [81.26, math.nan], "joint": [None, 40]}, caption="IoU", label="%")
    root = parse(chart)
    assert [bar.one("title").text for bar in bars(chart)] == ["road, warm-up: 81.3", "sky, joint: 40.0"]
    missing = [node.text for node in root.all("text", "missing")]
    assert missing == ["road, joint: not measured–", "sky, warm-up: not measured–"]
    assert [item.text for item in root.one("ul").all("li")] == ["warm-up", "joint"]
    assert root.one("figcaption").text == "IoU"
    assert root.one("svg", "drawing").attributes["aria-label"] == "Bars, %: warm-up, joint, for each of 2 categories"
    assert [text for text in labels(chart) if text in ("road", "sky", "%")] == ["road", "sky", "%"]
    assert labels(chart).count("20") == 2, "ticks above and below"
    first, second = bars(chart)
    assert first.attributes["class"] == "series-0" and second.attributes["class"] == "series-1"


def test_bars_of_nothing() -> None:
    for chart in (grouped_bars([], {}), grouped_bars(["a"], {}), grouped_bars([], {"x": []})):
        assert "Nothing measured yet." in parse(chart).text
    assert bars(grouped_bars(["a"], {"x": [None]})) == []
    (bar,) = bars(grouped_bars(["a"], {"x": [0.0]}))
    assert bar.number("width") == 0 and "0.0" in labels(grouped_bars(["a"], {"x": [0.0]}))
    assert not [text for text in labels(grouped_bars(["a"], {"x": [0.0]})) if text.startswith("−")], (
        "no axis to the left"
    )


def test_long_names_are_cut_but_kept() -> None:
    name = "a very long name of a class that nobody can read"
    (label,) = [n for n in parse(grouped_bars([name], {"x": [1]})).one("svg", "drawing").all("text") if n.all("title")]
    assert label.one("title").text == name
    assert label.text.removeprefix(name) == "a very long name of a cla…"


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' has 1 values for 2 categories"):
        grouped_bars(["a", "b"], {"x": [1]})
    with pytest.raises(ValueError, match="7 series"):
        grouped_bars(["a"], {str(k): [1] for k in range(COLORS + 1)})
    with pytest.raises(ValueError, match="13 series"):
        line_chart({str(k): ([1], [1]) for k in range(2 * COLORS + 1)}, "x", "y")
    with pytest.raises(ValueError, match=r"'a' has x of shape \(2,\) and y of shape \(1,\)"):
        line_chart({"a": ([1, 2], [1])}, "x", "y")


@given(st.lists(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=30), min_size=1, max_size=3))
def test_curves_stay_inside_the_drawing(lines: list[list[tuple[float, float]]]) -> None:
    series = {str(k): tuple(np.array(sorted(line)).T) for k, line in enumerate(lines)}
    chart = line_chart(series, "iteration", "loss")
    width, height = box(chart)
    for drawn, line in zip(curves(chart), lines, strict=True):
        (piece,) = drawn
        assert len(piece) == max(2, len(line))
        assert all(0 <= x <= width and 0 <= y <= height for x, y in piece)
        assert [x for x, _ in piece] == sorted(x for x, _ in piece)
    for node in parse(chart).one("svg", "drawing").all("circle"):
        assert 0 <= node.number("cx") <= width and 0 <= node.number("cy") <= height


def test_curve_points_are_where_their_values_are() -> None:
    chart = line_chart({"a": ([0, 500, 1000], [0.0, 50.0, 100.0]), "b": ([0, 1000], [100, 25])}, "iteration", "mIoU")
    (((x0, y0), (x1, y1), (x2, y2)),), (((_, top), (_, low)),) = curves(chart)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert y0 > y2 and x2 > x0 + WIDTH / 2 and top == y2
    assert low == pytest.approx(y0 + (y2 - y0) / 4, abs=0.1)
    ticks = {n.text: n for n in parse(chart).one("svg", "drawing").all("text")}
    assert ticks["1,000"].number("x") == pytest.approx(x2, abs=0.1)
    assert ticks["100"].number("y") == pytest.approx(y2, abs=0.1)
    assert {"iteration", "mIoU"} <= set(ticks)
    dots = [dot.one("title").text for dot in parse(chart).one("svg", "drawing").all("circle")]
    assert dots == ["a: 0 at 0", "a: 50 at 500", "a: 100 at 1,000", "b: 100 at 0", "b: 25 at 1,000"]


def test_nan_breaks_the_line() -> None:
    y = [math.nan, 1, 2, math.nan, math.inf, 3, math.nan, 4, 5, 6]
    chart = line_chart({"a": (range(10), y)}, "x", "y")
    ((first, alone, last),) = curves(chart)
    assert [len(first), len(last)] == [2, 3]
    assert alone[0] == alone[1], "a point alone is a dot"
    assert len(parse(chart).one("svg", "drawing").all("circle")) == 6
    ((left, right),) = curves(line_chart({"a": ([1, 2, math.nan, 4, 5], range(5))}, "x", "y"))
    assert [len(left), len(right)] == [2, 2]


def test_one_point_equal_values_and_nothing() -> None:
    (((point, _),),) = curves(line_chart({"a": ([3], [7])}, "x", "y"))
    assert 0 < point[0] < WIDTH
    assert len({y for _, y in curves(line_chart({"a": ([1, 2, 3], [5, 5, 5])}, "x", "y"))[0][0]}) == 1
    for series in ({}, {"a": ([], [])}, {"a": ([1, 2], [math.nan, math.inf])}):
        assert "Nothing measured yet." in parse(line_chart(series, "x", "y")).text
    drawn = curves(line_chart({"a": ([], []), "b": ([1, 2], [1, 2])}, "x", "y"))
    assert [len(pieces) for pieces in drawn] == [0, 1]


def test_many_points_become_few_and_keep_their_peaks() -> None:
    x = np.arange(100_000.0)
    y = np.sin(x / 9000)
    y[54_321], y[77_777] = 9, -9
    thin_x, thin_y = thin(x, y, 300)
    assert len(thin_x) <= 1200
    assert {54_321, 77_777, 0, 99_999} <= set(thin_x)
    assert (y[thin_x.astype(int)] == thin_y).all() and (np.diff(thin_x) > 0).all()
    assert len(thin(x[:1200], y[:1200], 300)[0]) == 1200, "few points all stay"

    chart = line_chart({"a": (x, y)}, "x", "y")
    assert len(chart) < 30_000 and not parse(chart).one("svg", "drawing").all("circle")
    ((piece,),) = curves(chart)
    heights = [b for _, b in piece]
    assert min(heights) < sorted(heights)[1] - 50 and max(heights) > sorted(heights)[-2] + 50


@given(st.lists(st.tuples(VALUE, VALUE), min_size=2, max_size=60), st.integers(1, 10))
def test_thin_takes_unordered_points_and_one_place(points: list[tuple[float, float]], buckets: int) -> None:
    x, y = np.array(points).T
    thin_x, thin_y = thin(x, y, buckets)
    assert set(zip(thin_x, thin_y, strict=True)) <= set(points)
    assert (thin_x[0], thin_y[0]) == points[0] and (thin_x[-1], thin_y[-1]) == points[-1]
    assert thin_y.min() == y.min() and thin_y.max() == y.max()
    assert len(thin(np.zeros(50), np.arange(50.0), 3)[0]) == 2


@given(VALUE, VALUE, st.integers(2, 8))
def test_ticks_are_round_and_hold_the_values(a: float, b: float, count: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = round_ticks(low, high, count)
    step = ticks[1] - ticks[0]
    tolerance = 1e-6 * step
    assert ticks[0] <= low + tolerance and ticks[-1] >= high - tolerance
    assert 2 <= len(ticks) <= count + 3
    assert np.allclose(np.diff(ticks), step, rtol=1e-6)
    assert re.fullmatch(r"[125]\.0+e.*", f"{step:.4e}"), step


def test_some_ticks() -> None:
    assert round_ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert round_ticks(0.12, 0.31, 4) == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    assert round_ticks(-3, 8, 5) == [-5, 0, 5, 10]
    assert round_ticks(0, 0, 4)[0] < 0 < round_ticks(0, 0, 4)[-1]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, 0.5, 1], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([0.0, 6e-5], ["0", "2e−05", "4e−05", "6e−05"]),
        ([-2000, 2000], ["−2,000", "−1,000", "0", "1,000", "2,000"]),
    ],
)
def test_ticks_are_written_with_the_decimals_they_need(values: list[float], texts: list[str]) -> None:
    assert set(texts) <= set(labels(line_chart({"a": (range(len(values)), values)}, "x", "y")))


def test_lines_beyond_the_colours_are_dashed() -> None:
    chart = line_chart({str(k): ([0, 1], [k, k + 1]) for k in range(COLORS + 1)}, "x", "y")
    kinds = [group.attributes["class"] for group in parse(chart).one("svg", "drawing").all("g")]
    assert kinds[0] == "series-0" and kinds[COLORS] == "series-0 dashed"
