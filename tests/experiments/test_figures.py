"""Figures as elements of a page."""

import math
import re
import warnings
from importlib.resources import files

import pytest

from clouds.experiments.drawing import PAPER
from clouds.experiments.figures import Chart, bar_chart, line_chart


def texts(chart: Chart) -> list[str]:
    return re.findall(r"<text[^>]*>(.*?)</text>", chart.svg)


def bars(chart: Chart, index: int) -> list[float]:
    """Lengths of the bars of a series."""
    paths = re.findall(rf'<path d="([^"]*)" style="fill: var\(--series-{index}\)"', chart.svg)
    corners = [[float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)] for path in paths]
    return [max(each) - min(each) for each in corners]


def test_bars_have_lengths_colors_and_names() -> None:
    chart = bar_chart(["road", "car"], {"a": [50.0, 25.0], "b": [0.0, 40.0]}, "IoU in %", name="x")
    first, second = bars(chart, 0), bars(chart, 1)
    assert first[0] == pytest.approx(2 * first[1])
    assert second == [pytest.approx(0), pytest.approx(first[0] * 40 / 50)]
    assert {"road", "car", "IoU in %", "0", "50"} <= set(texts(chart))
    assert chart.series == ["a", "b"]
    assert not chart.lines


def test_bar_that_was_not_measured_is_a_dash() -> None:
    known = bar_chart(["road"], {"a": [50.0]}, "IoU", name="x")
    unknown = bar_chart(["road", "car"], {"a": [50.0, math.nan]}, "IoU", name="x")
    assert not [text for text in texts(known) if "–" in text]
    assert len([text for text in texts(unknown) if "–" in text]) == 1


def test_more_series_than_colors() -> None:
    with pytest.raises(ValueError, match="series: 7 entries"):
        bar_chart(["road"], {str(index): [1.0] for index in range(7)}, "IoU", name="x")


def test_lines_go_where_their_points_are() -> None:
    chart = line_chart({"a": ([0, 5, 10], [1.0, math.nan, 2.0]), "b": ([0, 10], [2.0, 1.0])}, "step", "loss", name="x")
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--series-1\)', chart.svg)
    (left, high), (right, low) = [tuple(map(float, point)) for point in re.findall(r"[ML] ([\d.]+) ([\d.]+)", line)]
    assert left < right
    assert high < low, "down the page"
    assert {"step", "loss"} <= set(texts(chart))
    assert "b ends at 1" in chart.svg
    assert chart.lines


def test_lines_beyond_the_colors_are_dashed() -> None:
    chart = line_chart({str(index): ([0, 1], [index, index]) for index in range(8)}, "step", "loss", name="x")
    assert len(re.findall(r"stroke-dasharray", chart.svg)) == 2


def test_figure_takes_colors_and_font_from_the_page() -> None:
    chart = line_chart({"a": ([0, 1], [0, 1])}, "step", "loss", name="x")
    assert not re.search(r"#[0-9a-f]{6}", chart.svg)
    assert "font-family" not in chart.svg
    assert "<style" not in chart.svg
    assert "http" not in chart.svg


def test_ids_differ_between_figures_and_not_between_calls() -> None:
    def ids(name: str) -> set[str]:
        return set(re.findall(r' id="([^"]*)"', line_chart({"a": ([0, 1], [0, 1])}, "step", "loss", name=name).svg))

    assert ids("one") == ids("one")
    assert ids("one")
    assert not ids("one") & ids("two")


@pytest.mark.parametrize("name", ["<b>&amp;", "$x_1$", "\x00\ud800", "曲線", "a" * 99, ""])
def test_any_name_is_text(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = bar_chart([name], {"a": [1.0]}, "IoU", name="x")
    shown = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = shown.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert name == "" or (f"{shown[:25]}…" if len(name) > 26 else shown) in texts(chart)


def test_files_have_the_colors_of_the_printed_page() -> None:
    style = (files("clouds.experiments") / "templates/style.css").read_text()
    series = {int(index): color for index, color in re.findall(r"--series-(\d): (#\w+)", style.split("@media")[0])}
    assert [series[index] for index in sorted(series)] == PAPER.series
    (printed,) = re.findall(r"@media print \{\n  :root \{(.*)\}", style)
    ink, soft, line = (re.search(rf"--{name}: #(\w+)", printed)[1] for name in ("ink", "soft", "line"))  # type: ignore[index]
    assert [f"#{''.join(2 * digit for digit in color)}" for color in (ink, soft, line)] == [
        PAPER.ink,
        PAPER.soft,
        PAPER.line,
    ]
