"""Figures of a report, drawn by matplotlib as SVG elements that take their colors and font from the page's style.

Lengths are in units of the drawing, which is `WIDTH` wide and is scaled to the width of its place in the page.
"""

import contextlib
import io
import math
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH = 640
SERIES = 6
"""Number of colors for series in the style; further lines repeat them with other dashes."""

_FONT_SIZE = 12
_LETTER = 9.5  # width of a character at the largest font size, which the style sets on narrow screens
_LONGEST_NAME = 26  # characters of a category
_BARS = {1: 14, 2: 11}  # thickness of a bar by the number of series
_MANY_BARS, _BAR_GAP, _GROUP_GAP = 9, 1.5, 10
_ABOVE, _BELOW, _RIGHT = 34, 54, 24  # margins
_LINES_HEIGHT, _LINES_LEFT = 352, 60
_DASHES = ("-", (0, (5, 4)), (0, (1.5, 2.5)), (0, (7, 3, 1.5, 3)))
_LARGEST = 1e100  # matplotlib computes with the squares and differences of values
_DOTS = 40  # lines of at most this many points show each of them

# matplotlib knows no CSS variables: it draws in these colors, which the SVG then replaces.
_INK, _SOFT, _LINE = "#010101", "#020202", "#030303"
_COLORS = tuple(f"#0000{index:02x}" for index in range(1, SERIES + 1))
_VARIABLES = {_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(_COLORS)
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,
    "font.size": _FONT_SIZE,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _SOFT,
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "axes.labelpad": 8,
    "grid.color": _LINE,
    "grid.linewidth": 1.0,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "lines.linewidth": 1.75,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True)
class Chart:
    """A drawing and what the page shows around it.

    Attributes:
        svg: the `<svg>` element, with a description for those who cannot see it.
        series: names of the series, in the order of their colors.
        lines: whether the series are lines, otherwise they are areas.
    """

    svg: Markup
    series: Sequence[str]
    lines: bool


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
    with _style(name):
        figure, axes = _canvas(left, pitch * len(categories))
        middles = np.arange(len(categories)) * pitch
        for index, values in enumerate(series.values()):
            places = middles + (index - (len(series) - 1) / 2) * (thickness + _BAR_GAP)
            axes.barh(places, np.nan_to_num(values), thickness, color=_COLORS[index], clip_on=False)
            for place in places[np.isnan(np.asarray(values, float))]:
                axes.text(0, place, " \N{EN DASH}", va="center", color=_SOFT)
        axes.set_ylim(pitch * (len(categories) - 0.5), -pitch / 2)
        axes.set_yticks(middles, [_shortened(each) for each in categories])
        axes.tick_params(axis="y", colors=_INK, pad=6)
        axes.tick_params(axis="x", labeltop=True)
        axes.set_xticks(_round_ticks(6).tick_values(*axes.get_xlim()))
        axes.grid(axis="x")
        axes.axvline(0, color=_SOFT, linewidth=1)
        axes.set_xlabel(label)
        description = f"Bar chart, {label}: {', '.join(series)}, for each of {len(categories)} categories"
        return Chart(_to_svg(figure, name, description), list(series), lines=False)


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
    with _style(name):
        figure, axes = _canvas(_LINES_LEFT, _LINES_HEIGHT - _ABOVE - _BELOW)
        for index, (x, y) in enumerate(series.values()):
            dashes = _DASHES[index // SERIES % len(_DASHES)]
            marker = "o" if len(x) <= _DOTS else ""
            drawn = [value if abs(value) <= _LARGEST else math.nan for value in y]
            axes.plot(x, drawn, color=_COLORS[index % SERIES], linestyle=dashes, marker=marker, clip_on=False)
        axes.spines["bottom"].set_visible(True)
        axes.tick_params(axis="x", length=4, width=1)
        axes.tick_params(axis="y", labelcolor=_INK, pad=6)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(_round_ticks(6))
        axes.set_yticks(_round_ticks(5).tick_values(*axes.get_ylim()))
        axes.grid(axis="y")
        axes.set_xlabel(x_label)
        axes.text(0, _LINES_HEIGHT - 12, y_label, transform=None)
        ends = ", ".join(f"{title} ends at {y[-1]:.4g}" for title, (_, y) in series.items() if len(y))
        description = f"Line chart, {y_label} over {x_label}: {ends or 'no points'}"
        return Chart(_to_svg(figure, name, description), list(series), lines=True)


def _style(name: str) -> contextlib.AbstractContextManager[None]:
    """The settings of a drawing. The salt makes its element ids unique in the page and the same in every run."""
    return matplotlib.rc_context(_STYLE | {"svg.hashsalt": name})


def _canvas(left: float, height: float) -> tuple[Figure, Axes]:
    """A figure and its axes without frame or ticks. `left`: margin; `height`: height of the axes."""
    total = height + _ABOVE + _BELOW
    # At 72 units per inch, the unit of SVG, one unit of the drawing is one pixel.
    figure = Figure(figsize=(WIDTH / 72, total / 72), dpi=72)
    axes = figure.add_axes((left / WIDTH, _BELOW / total, (WIDTH - left - _RIGHT) / WIDTH, height / total))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")))
    return figure, axes


def _round_ticks(count: int) -> MaxNLocator:
    """About `count` steps of 1, 2 or 5 times a power of ten."""
    return MaxNLocator(count, steps=[1, 2, 5, 10])


def _to_svg(figure: Figure, name: str, description: str) -> Markup:
    """The drawing as an element of an HTML page."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The page's fonts have characters that the font for measuring may lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in [each for each in parent if _local(each.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.tag = _local(element.tag)
        if element.tag in ("svg", "g"):
            attributes.pop("id", None)  # nothing refers to these, and every drawing has the same ones
        if "style" in attributes:
            attributes["style"] = _themed(attributes["style"])
        if attributes.get("transform", "").startswith("rotate(-0 "):
            del attributes["transform"]
        element.attrib = attributes
    root.attrib = {
        "class": "drawing",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": _printable(description),
    }
    return Markup(ET.tostring(root, encoding="unicode"))


def _themed(style: str) -> str:
    """CSS with the page's colors and font in place of matplotlib's."""
    for color, variable in _VARIABLES.items():
        style = style.replace(color, variable)
    rules = (rule.strip() for rule in style.split(";"))
    return "; ".join(rule for rule in rules if not rule.startswith("font"))


def _local(name: str) -> str:
    """A name of XML without its namespace."""
    return name.rpartition("}")[2]


def _shortened(text: str) -> str:
    text = _printable(text)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _printable(text: str) -> str:
    """Text without the characters that XML forbids."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
