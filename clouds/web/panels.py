"""Parts of the page as HTML and colors: class names, areas, legend, maps. Needs no Gradio."""

import html
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import short_name
from clouds.visualization.palette import Color, UInt8Array

_UNITS = 1000  # of a percentage that is rounded to one decimal


def class_names(text: str) -> list[str] | None:
    """Return the class names in a text, one a line, with synonyms after commas; None if the text is empty."""
    return [line.strip() for line in text.splitlines() if line.strip()] or None


def percentages(shares: Sequence[float]) -> list[float]:
    """Round shares to percentages with one decimal that sum to 100, by the method of the largest remainder.

    Args:
        shares: shares that sum to 1.
    """
    exact = [_UNITS * share for share in shares]
    units = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: units[number] - exact[number])
    for number in by_remainder[: _UNITS - sum(units)]:
        units[number] += 1
    return [100 * each / _UNITS for each in units]


def area_table(area: Mapping[str, float], colors: Sequence[Color]) -> str:
    """Return the classes that occur, from the largest to the smallest, as an HTML table with a total of 100 %.

    Args:
        area: share of the pixels of each class, by its first name; the shares sum to 1.
        colors: RGB of each class, 0..255.
    """
    found = sorted(
        ((share, name, color) for (name, share), color in zip(area.items(), colors, strict=True) if share > 0),
        key=lambda each: -each[0],
    )
    rounded = percentages([share for share, _, _ in found])
    rows = (
        f'<tr><th scope="row">{_swatch(color)}{html.escape(name)}</th><td>{percent:.1f} %</td></tr>'
        for percent, (_, name, color) in zip(rounded, found, strict=True)
    )
    return (
        '<table class="clouds-area"><caption>Area of each class</caption>'
        '<thead><tr><th scope="col">Class</th><th scope="col">Share of the pixels</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody>"
        '<tfoot><tr><th scope="row">Total</th><td>100.0 %</td></tr></tfoot></table>'
    )


def legend(classes: Sequence[str], colors: Sequence[Color]) -> str:
    """Return the names of all classes with their colors as an HTML list with a title.

    Args:
        classes: names of the classes, synonyms separated by commas; the first synonym is shown.
        colors: RGB of each class, 0..255.
    """
    entries = (
        f"<li>{_swatch(color)}{html.escape(short_name(name))}</li>" for name, color in zip(classes, colors, strict=True)
    )
    return f'<p class="clouds-title">Legend</p><ul class="clouds-legend">{"".join(entries)}</ul>'


def heat_map(values: npt.NDArray[np.float32]) -> UInt8Array:
    """Draw values in the colors of viridis: 0 is dark blue, 1 is yellow.

    Args:
        values: (H, W) float32 in 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = cv2.applyColorMap(np.round(255 * values).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.asarray(drawn[..., ::-1], dtype=np.uint8)


def reduced(image: Image.Image, pixels: int) -> Image.Image:
    """Return an image with at most so many pixels, of the same aspect ratio; a smaller one as it is."""
    factor = math.sqrt(pixels / (image.width * image.height))
    if factor >= 1:
        return image
    width, height = (max(1, math.floor(factor * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2)


def _swatch(color: Color) -> str:
    red, green, blue = color
    return f'<span class="clouds-swatch" style="background: rgb({red}, {green}, {blue})"></span>'
