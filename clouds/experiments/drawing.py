"""Drawings by matplotlib: as an element of the page, which takes colors and font from its style, and as a file.

Lengths are in units of the drawing, which is `WIDTH` wide and is scaled to the width of its place in the page. A file
has the colors of the page on paper, its own legend, and text as text.
"""

import contextlib
import io
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from matplotlib.typing import LineStyleType

WIDTH = 640
SERIES = 6
"""Number of colors for series in the style; further lines repeat them with other dashes."""
DASHES: tuple[LineStyleType, ...] = ("-", (0, (5, 4)), (0, (1.5, 2.5)), (0, (7, 3, 1.5, 3)))
"""Dashes of lines, in matplotlib's terms, one after the other for each `SERIES` lines."""
RIGHT = 24
"""Margin on the right."""

_FONT_SIZE = 12


@dataclass(frozen=True)
class Colors:
    """Colors of a drawing as #rrggbb: text, ticks, grid lines, and series."""

    ink: str
    soft: str
    line: str
    series: Sequence[str]


# matplotlib knows no CSS variables: it draws in these colors, which the SVG of a page then replaces.
_PAGE = Colors("#010101", "#020202", "#030303", [f"#0000{index:02x}" for index in range(1, SERIES + 1)])
_VARIABLES = {_PAGE.ink: "var(--ink)", _PAGE.soft: "var(--soft)", _PAGE.line: "var(--line)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(_PAGE.series)
}
PAPER = Colors("#000000", "#444444", "#cccccc", ["#004a94", "#b8820e", "#96203c", "#379779", "#2d8fd6", "#4a4f5a"])
"""Colors of the files, which are those of the style on paper."""


@dataclass(frozen=True)
class Chart:
    """A drawing and what the page shows around it.

    Attributes:
        name: unique name of the drawing in its page, and of its files.
        description: description for those who cannot see it.
        series: names of the series, in the order of their colors.
        lines: whether the series are lines, otherwise they are areas.
        draw: returns the drawing in the given colors.
    """

    name: str
    description: str
    series: Sequence[str]
    lines: bool
    draw: Callable[[Colors], Figure]

    @cached_property
    def svg(self) -> Markup:
        """The `<svg>` element for a page."""
        with _style(self.name, _PAGE):
            return _element(self.draw(_PAGE), self.description)

    def file(self, kind: Literal["svg", "pdf"]) -> bytes:
        """Return the content of a file with the drawing, in colors of its own and the same in every run."""
        with _style(self.name, PAPER):
            figure = self.draw(PAPER)
            if self.series:
                self._add_legend(figure)
            date = {"svg": "Date", "pdf": "CreationDate"}[kind]
            return _saved(figure, kind, {date: None, "Title": printable(self.description)})

    def _add_legend(self, figure: Figure) -> None:
        colors = [PAPER.series[index % SERIES] for index in range(len(self.series))]
        handles = [
            Line2D([], [], color=color, linestyle=DASHES[index // SERIES % len(DASHES)])
            if self.lines
            else Patch(color=color)
            for index, color in enumerate(colors)
        ]
        names = [printable(name) for name in self.series]
        # Above the drawing: matplotlib's tight bounding box makes room for it.
        figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=_FONT_SIZE)


def canvas(colors: Colors, left: float, height: float, above: float, below: float) -> tuple[Figure, Axes]:
    """Return a figure and its axes without frame or ticks.

    Args:
        colors: colors of the drawing.
        left: margin on the left.
        height: height of the axes.
        above: margin above the axes.
        below: margin below the axes.
    """
    total = height + above + below
    # At 72 units per inch, the unit of SVG, one unit of the drawing is one pixel.
    figure = Figure(figsize=(WIDTH / 72, total / 72), dpi=72)
    axes = figure.add_axes((left / WIDTH, below / total, (WIDTH - left - RIGHT) / WIDTH, height / total))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")))
    return figure, axes


def shortened(text: str, length: int) -> str:
    """Return a text with at most `length` characters."""
    text = printable(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def printable(text: str) -> str:
    """Return a text without the characters that XML forbids."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _style(name: str, colors: Colors) -> contextlib.AbstractContextManager[None]:
    """The settings of a drawing. The salt makes its element ids unique in the page and the same in every run."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text
        "pdf.fonttype": 42,  # TrueType: publishers refuse bitmaps of characters
        "text.parse_math": False,
        "font.size": _FONT_SIZE,
        "text.color": colors.ink,
        "axes.labelcolor": colors.ink,
        "axes.edgecolor": colors.soft,
        "axes.linewidth": 1.0,
        "axes.axisbelow": True,
        "axes.xmargin": 0,
        "axes.ymargin": 0,
        "axes.labelpad": 8,
        "grid.color": colors.line,
        "grid.linewidth": 1.0,
        "xtick.color": colors.soft,
        "ytick.color": colors.soft,
        "lines.linewidth": 1.75,
        "lines.markersize": 4.5,
        "lines.solid_capstyle": "round",
        "lines.solid_joinstyle": "round",
        "svg.hashsalt": name,
    }
    return matplotlib.rc_context(style)


def _saved(figure: Figure, kind: str, metadata: Mapping[str, Any], box: str | None = "tight") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The fonts of the page and of the reader have characters that the font for measuring may lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=kind, transparent=True, metadata=dict(metadata), bbox_inches=box)
    return buffer.getvalue()


def _element(figure: Figure, description: str) -> Markup:
    """The drawing as an element of an HTML page."""
    root = ET.fromstring(_saved(figure, "svg", {"Date": None}, box=None))
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
        "aria-label": printable(description),
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
