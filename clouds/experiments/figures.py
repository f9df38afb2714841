"""Figures of a report: bars, curves, and confusion matrices."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from clouds.experiments.drawing import DASHES, RIGHT, SERIES, WIDTH, Chart, Colors, canvas, shortened

_LETTER = 9.5  # width of a character at the largest font size, which the style sets on narrow screens
_LONGEST_NAME = 26  # characters of a category
_BARS = {1: 14, 2: 11}  # thickness of a bar by the number of series
_MANY_BARS, _BAR_GAP, _GROUP_GAP = 9, 1.5, 10
_ABOVE, _BELOW = 34, 54  # margins
_LINES_HEIGHT, _LINES_LEFT = 352, 60
_LARGEST = 1e100  # matplotlib computes with the squares and differences of values
_DOTS = 40  # lines of at most this many points show each of them
_CLASS, _CLASS_LETTER = 14, 7.5  # characters of a class beside a matrix, and their width
_STRONGEST = 0.6  # opacity of the largest cell of a matrix: numbers on it stay readable
_CROWDED = 24  # a matrix of more classes has no numbers


def bar_chart(categories: Sequence[str], series: Mapping[str, Sequence[float]], label: str, *, name: str) -> Chart:
    """Draw horizontal bars from zero, one for each series in each category.

    Args:
        categories: names, from top to bottom.
        series: name -> one value for each category; NaN is drawn as a dash.
        label: label of the axis.
        name: unique name of the drawing in its page.

    Raises:
        ValueError: `series` has more entries than there are colors.
    """
    if len(series) > SERIES:
        raise ValueError(f"series: {len(series)} entries, but there are {SERIES} colors")
    thickness = _BARS.get(len(series), _MANY_BARS)
    pitch = len(series) * (thickness + _BAR_GAP) + _GROUP_GAP
    left = min(_LONGEST_NAME, max(map(len, categories), default=0)) * _LETTER + 8

    def draw(colors: Colors) -> Figure:
        figure, axes = canvas(colors, left, pitch * len(categories), _ABOVE, _BELOW)
        middles = np.arange(len(categories)) * pitch
        for index, values in enumerate(series.values()):
            places = middles + (index - (len(series) - 1) / 2) * (thickness + _BAR_GAP)
            axes.barh(places, np.nan_to_num(values), thickness, color=colors.series[index], clip_on=False)
            for place in places[np.isnan(np.asarray(values, float))]:
                axes.text(0, place, " \N{EN DASH}", va="center", color=colors.soft)
        axes.set_ylim(pitch * (len(categories) - 0.5), -pitch / 2)
        axes.set_yticks(middles, [shortened(each, _LONGEST_NAME) for each in categories])
        axes.tick_params(axis="y", colors=colors.ink, pad=6)
        axes.tick_params(axis="x", labeltop=True)
        axes.set_xticks(_round_ticks(6).tick_values(*axes.get_xlim()))
        axes.grid(axis="x")
        axes.axvline(0, color=colors.soft, linewidth=1)
        axes.set_xlabel(label)
        return figure

    description = f"Bar chart, {label}: {', '.join(series)}, for each of {len(categories)} categories"
    return Chart(name, description, list(series), lines=False, draw=draw)


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, *, name: str
) -> Chart:
    """Draw curves.

    Args:
        series: name -> x, 0 or more, and y of its points; a point that is NaN or beyond 1e100 breaks the line.
        x_label: label of the horizontal axis, for example "iteration".
        y_label: label of the vertical axis, for example "loss".
        name: unique name of the drawing in its page.
    """

    def draw(colors: Colors) -> Figure:
        figure, axes = canvas(colors, _LINES_LEFT, _LINES_HEIGHT - _ABOVE - _BELOW, _ABOVE, _BELOW)
        for index, (x, y) in enumerate(series.values()):
            dashes = DASHES[index // SERIES % len(DASHES)]
            marker = "o" if len(x) <= _DOTS else ""
            drawn = [value if abs(value) <= _LARGEST else math.nan for value in y]
            axes.plot(x, drawn, color=colors.series[index % SERIES], linestyle=dashes, marker=marker, clip_on=False)
        axes.spines["bottom"].set_visible(True)
        axes.tick_params(axis="x", length=4, width=1)
        axes.tick_params(axis="y", labelcolor=colors.ink, pad=6)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(_round_ticks(6))
        axes.set_yticks(_round_ticks(5).tick_values(*axes.get_ylim()))
        axes.grid(axis="y")
        axes.set_xlabel(x_label)
        axes.text(0, _LINES_HEIGHT - 12, y_label, transform=None)
        return figure

    ends = ", ".join(f"{title} ends at {y[-1]:.4g}" for title, (_, y) in series.items() if len(y))
    description = f"Line chart, {y_label} over {x_label}: {ends or 'no points'}"
    return Chart(name, description, list(series), lines=True, draw=draw)


def heat_map(classes: Sequence[str], values: npt.NDArray[np.float64], *, name: str, signed: bool = False) -> Chart:
    """Draw a confusion matrix: a row for each true class, a column for each predicted class.

    Args:
        classes: names of the C classes.
        values: (C, C) percentages 0..100 of each row, or with `signed` differences of them in -100..100; NaN is empty.
        name: unique name of the drawing in its page.
        signed: positive and negative values have two colors, and the strongest one is that of the largest value.
    """
    count = len(classes)
    labels = [shortened(each, _CLASS) for each in classes]
    margin = max(map(len, labels), default=0) * _CLASS_LETTER + 24
    side = WIDTH - margin - RIGHT
    largest = max(1.0, float(np.nanmax(np.abs(values), initial=0))) if signed else 100.0
    cell = side / max(count, 1)

    def draw(colors: Colors) -> Figure:
        figure, axes = canvas(colors, margin, side, margin, 12)
        for row, column in zip(*np.nonzero(np.abs(values) >= 0.5), strict=True):  # NaN is not
            value = float(values[row, column])
            color, opacity = colors.series[0 if value > 0 else 2], _STRONGEST * abs(value) / largest
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color, alpha=opacity, linewidth=0))
            if count <= _CROWDED:
                text = f"{abs(value):.0f}" if value > 0 else f"\N{MINUS SIGN}{abs(value):.0f}"
                size = min(12.0, cell * 0.42)
                axes.text(column + 0.5, row + 0.52, text, ha="center", va="center", fontsize=size)
        axes.set_xlim(0, count)
        axes.set_ylim(count, 0)
        axes.xaxis.tick_top()
        axes.set_xticks(np.arange(count) + 0.5, labels, rotation=90)
        axes.set_yticks(np.arange(count) + 0.5, labels)
        axes.tick_params(colors=colors.ink, pad=4)
        for edge in range(count + 1):
            axes.axhline(edge, color=colors.line, linewidth=0.6, clip_on=False)
            axes.axvline(edge, color=colors.line, linewidth=0.6, clip_on=False)
        # Above the names of the columns, which leave the top of the margin free.
        legend = "true \N{DOWNWARDS ARROW}  predicted \N{RIGHTWARDS ARROW}"
        axes.text(4, figure.bbox.height - 4, legend, transform=None, va="top", fontsize=11)
        return figure

    kind = "Difference of confusion matrices in percentage points" if signed else "Confusion matrix in percent"
    diagonal = [f"{each} {values[index, index]:.0f}" for index, each in enumerate(classes)]
    return Chart(name, f"{kind} of the true class; right: {', '.join(diagonal)}", [], lines=False, draw=draw)


def _round_ticks(count: int) -> MaxNLocator:
    """About `count` steps of 1, 2 or 5 times a power of ten."""
    return MaxNLocator(count, steps=[1, 2, 5, 10])
