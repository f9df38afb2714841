"""Charts of a report as SVG inside the page; colours and sizes of letters come from the page's style.

Lengths are in units of the drawing, which is `WIDTH` wide and grows and shrinks with its place.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clouds.visualization.html import Html, element, figure, join, paragraph

FloatArray = npt.NDArray[np.float64]

WIDTH = 640
COLORS = 6
"""How many series the style has a colour for; lines beyond them are dashed."""

_LETTER = 9.5  # of the largest letters, those on a phone: the widest that a character is on average
_BARS = {1: 14, 2: 11}  # thickness of a bar by the number of series
_MANY_BARS, _BAR_GAP, _GROUP_GAP = 9, 1.5, 10
_LONGEST_NAME = 26  # characters of a category, before it is cut
_LINES_HEIGHT = 300
_AXIS = 26  # height of a row of tick labels
_DOTS = 40  # points that a line may have to be drawn with a dot each


class Axis(NamedTuple):
    """From values to places: `low` is drawn at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, values: FloatArray) -> FloatArray:
        """Places of values, in units of the drawing."""
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    def at(self, value: float) -> float:
        """The place of one value."""
        return float(self.place(np.array([value]))[0])


def grouped_bars(
    categories: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    caption: str = "",
    label: str = "IoU in %",
    digits: int = 1,
) -> Html:
    """Horizontal bars from zero, in each category one a series; the pointer on a bar shows its value.

    Args:
        categories: from top to bottom.
        series: name -> a value a category; None or nan for what was not measured, which is a dash.
        caption: of the chart.
        label: of the axis.
        digits: of the values that are shown.

    Raises:
        ValueError: more series than colours, or one with more or fewer values than categories.
    """
    if len(series) > COLORS:
        raise ValueError(f"{len(series)} series, but bars have {COLORS} colours")
    values = {name: np.array([math.nan if v is None else v for v in line], float) for name, line in series.items()}
    for name, line in values.items():
        if len(line) != len(categories):
            raise ValueError(f"{name!r} has {len(line)} values for {len(categories)} categories")
    known = np.concatenate([*values.values(), np.zeros(1)])
    known = known[np.isfinite(known)]
    if not categories or not series:
        return figure(paragraph("Nothing measured yet."), caption, kind="chart")

    ticks = round_ticks(float(known.min()), float(known.max()) if known.any() else 1.0, 6)
    left = min(_LONGEST_NAME, max(map(len, categories))) * _LETTER + 8
    axis = Axis(ticks[0], ticks[-1], left, WIDTH - _overhang(ticks))
    bar = _BARS.get(len(series), _MANY_BARS)
    pitch = len(series) * (bar + _BAR_GAP) + _GROUP_GAP
    top, bottom = _AXIS, _AXIS + pitch * len(categories)
    parts = [_grid_x(axis, ticks, top, bottom), _tick_labels_x(axis, ticks, top - 9)]
    for row, category in enumerate(categories):
        y = top + row * pitch + _GROUP_GAP / 2
        middle = y + (pitch - _GROUP_GAP - _BAR_GAP) / 2
        parts.append(_name(category, left - 8, middle))
        for index, (name, line) in enumerate(values.items()):
            said = f"{category}, {name}"
            parts.append(_bar(axis, y + index * (bar + _BAR_GAP), bar, line[row], index, said, digits))
    parts.append(element("line", x1=axis.at(0), x2=axis.at(0), y1=top, y2=bottom, class_="zero"))
    parts.append(_tick_labels_x(axis, ticks, bottom + 18))
    parts.append(element("text", label, x=(axis.start + axis.end) / 2, y=bottom + 2 * _AXIS - 6, class_="centre"))
    told = f"Bars, {label}: {', '.join(series)}, for each of {len(categories)} categories"
    return _chart(parts, bottom + 2 * _AXIS, told, list(series), "square", caption)


def line_chart(
    series: Mapping[str, tuple[Sequence[float] | FloatArray, Sequence[float] | FloatArray]],
    x_label: str,
    y_label: str,
    *,
    caption: str = "",
) -> Html:
    """Curves; of many points those stay that give a curve its shape, its peaks among them.

    Args:
        series: name -> x and y of its points. A point that is nan or infinite breaks the line. A line of few points
            has dots that show their values to the pointer.
        x_label: of the axis, for example "iteration".
        y_label: of the axis, for example "loss".
        caption: of the chart.

    Raises:
        ValueError: more series than colours and dashes, or x and y of different lengths.
    """
    if len(series) > 2 * COLORS:
        raise ValueError(f"{len(series)} series, but a chart has colours and dashes for {2 * COLORS}")
    lines = {name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()}
    for name, (x, y) in lines.items():
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(f"{name!r} has x of shape {x.shape} and y of shape {y.shape}")
    known = {name: np.isfinite(x) & np.isfinite(y) for name, (x, y) in lines.items()}
    if not any(map(np.any, known.values())):
        return figure(paragraph("Nothing measured yet."), caption, kind="chart")

    all_x, all_y = (np.concatenate([line[k][known[name]] for name, line in lines.items()]) for k in (0, 1))
    x_ticks = round_ticks(float(all_x.min()), float(all_x.max()), 6)
    y_ticks = round_ticks(float(all_y.min()), float(all_y.max()), 5)
    top, bottom = _AXIS + 6, _AXIS + _LINES_HEIGHT
    left = max(len(text) for text in _tick_texts(y_ticks)) * _LETTER + 10
    x_axis, x_ticks = _close_axis(x_ticks, float(all_x.min()), float(all_x.max()), left)
    y_axis = Axis(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [
        *(element("line", x1=left, x2=x_axis.end, y1=y, y2=y, class_="grid") for y in map(y_axis.at, y_ticks)),
        *(
            element("text", text, x=left - 8, y=y_axis.at(tick), class_="end middle")
            for tick, text in zip(y_ticks, _tick_texts(y_ticks), strict=True)
        ),
        element("text", y_label, x=0, y=13),
        *(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="zero") for x in map(x_axis.at, x_ticks)),
        element("line", x1=left, x2=x_axis.end, y1=bottom, y2=bottom, class_="zero"),
        _tick_labels_x(x_axis, x_ticks, bottom + 20),
        element("text", x_label, x=(left + x_axis.end) / 2, y=bottom + 2 * _AXIS - 6, class_="centre"),
        *(
            _curve(x_axis, y_axis, x, np.where(known[name], y, np.nan), name, index)
            for index, (name, (x, y)) in enumerate(lines.items())
        ),
    ]
    told = f"Curves, {y_label} over {x_label}: {', '.join(series)}"
    return _chart(parts, bottom + 2 * _AXIS, told, list(series), "line", caption)


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` steps of 1, 2 or 5 times a power of ten, from at most `low` to at least `high`; both are finite."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def thin(x: FloatArray, y: FloatArray, buckets: int) -> tuple[FloatArray, FloatArray]:
    """Of the points in each of so many equal stretches of x the first, the lowest, the highest and the last.

    Args:
        x: (N,) finite, as a rule ascending.
        y: (N,) finite.
        buckets: number of stretches.

    Returns:
        x and y of at most 4 points a stretch where x ascends, in their order.
    """
    if len(x) <= 4 * buckets:
        return x, y
    bucket = np.floor((x - x.min()) / max(float(np.ptp(x)), 1e-300) * buckets)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    kept: set[int] = set()
    for start, end in zip(starts, [*starts[1:], len(x)], strict=True):
        part = y[start:end]
        kept |= {int(start), int(start + part.argmin()), int(start + part.argmax()), int(end) - 1}
    order = sorted(kept)
    return x[order], y[order]


def _close_axis(ticks: list[float], low: float, high: float, left: float) -> tuple[Axis, list[float]]:
    """An axis that ends where the values end, or at the tick outside of them where that is near; and its ticks."""
    near = (ticks[1] - ticks[0]) / 4
    if high > low:
        first = ticks[0] if low - ticks[0] <= near else low
        last = ticks[-1] if ticks[-1] - high <= near else high
    else:
        first, last = ticks[0], ticks[-1]
    return Axis(first, last, left, WIDTH - _overhang(ticks)), [tick for tick in ticks if first <= tick <= last]


def _curve(x_axis: Axis, y_axis: Axis, x: FloatArray, y: FloatArray, name: str, index: int) -> Html:
    """One series; y is nan where the line breaks."""
    known = np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    pieces = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        part_x, part_y = thin(x[start:end], y[start:end], WIDTH // 2)
        # A point alone is a line to itself, which round ends make a dot.
        places = [f"{a:.1f} {b:.1f}" for a, b in zip(x_axis.place(part_x), y_axis.place(part_y), strict=True)]
        pieces.append(f"M{'L'.join(places if len(places) > 1 else places * 2)}")
    dotted = known if known.sum() <= _DOTS else np.zeros_like(known)
    dots = [
        element(
            "circle", element("title", f"{name}: {_short(b)} at {_short(a)}"), cx=x_axis.at(a), cy=y_axis.at(b), r=3.0
        )
        for a, b in zip(x[dotted], y[dotted], strict=True)
    ]
    path = element("path", element("title", name), d="".join(pieces), class_="curve")
    return element("g", path, *dots, class_=_series(index))


def _name(category: str, x: float, y: float) -> Html:
    short = category if len(category) <= _LONGEST_NAME else f"{category[: _LONGEST_NAME - 1]}…"
    whole = element("title", category) if short != category else Html()
    return element("text", whole, short, x=x, y=y, class_="end middle")


def _bar(axis: Axis, y: float, height: float, value: float, index: int, name: str, digits: int) -> Html:
    zero = axis.at(0)
    if not math.isfinite(value):
        said = element("title", f"{name}: not measured")
        return element("text", said, "\N{EN DASH}", x=zero + 3, y=y + height / 2, class_="middle missing")
    end = axis.at(value)
    said = element("title", f"{name}: {value:.{digits}f}")
    return element("rect", said, x=min(zero, end), y=y, width=abs(end - zero), height=height, class_=_series(index))


def _grid_x(axis: Axis, ticks: Sequence[float], top: float, bottom: float) -> Html:
    return join(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid") for x in map(axis.at, ticks))


def _tick_labels_x(axis: Axis, ticks: Sequence[float], y: float) -> Html:
    texts = zip(ticks, _tick_texts(ticks), strict=True)
    return join(element("text", text, x=axis.at(tick), y=y, class_="centre tick") for tick, text in texts)


def _overhang(ticks: Sequence[float]) -> float:
    """Room at the right of a plot, into which half of the last tick's label reaches."""
    return max(map(len, _tick_texts(ticks))) * _LETTER / 2 + 2


def _tick_texts(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many decimals as their step has."""
    step = ticks[1] - ticks[0]
    if step < 1e-4 or max(map(abs, ticks)) >= 1e7:
        return [_signed(f"{tick:.4g}") for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [_signed(f"{tick:,.{decimals}f}") for tick in ticks]


def _short(value: float) -> str:
    return _signed(f"{value:,.0f}" if value == round(value) and abs(value) < 1e7 else f"{value:.4g}")


def _signed(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}") if float(number.replace(",", "")) else number.removeprefix("-")


def _series(index: int) -> str:
    return f"series-{index % COLORS}{' dashed' if index >= COLORS else ''}"


def _chart(parts: Sequence[Html], height: float, told: str, names: Sequence[str], mark: str, caption: str) -> Html:
    """The drawing with its legend. `told`: what it shows, in words; `mark`: how the legend shows a series."""
    drawing = element("svg", *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=told, class_="drawing")
    shapes = {
        "square": lambda kind: element("rect", width=12, height=12, rx=2, class_=kind),
        "line": lambda kind: element("g", element("path", d="M0 6H24", class_="curve"), class_=kind),
    }
    box = {"square": "0 0 12 12", "line": "0 0 24 12"}[mark]
    entries = [
        element(
            "li",
            element("svg", shapes[mark](_series(index)), viewBox=box, class_=f"swatch {mark}", aria_hidden="true"),
            name,
        )
        for index, name in enumerate(names)
    ]
    legend = element("ul", *entries, class_="key")
    return figure(join([legend, drawing]), caption, kind="chart")
