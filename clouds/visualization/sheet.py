"""Sheet that compares label maps: one row per example, with columns such as image, truth and prediction."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, short_name
from clouds.visualization.palette import colorize

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 36, 44), (206, 210, 218)
_MARGIN, _GAP, _SWATCH = 24, 8, 16
_TITLE, _HEADING, _TEXT = 17, 15, 13  # font sizes in pixels


def comparison_sheet(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8] | None]]],
    *,
    title: str = "",
    classes: Sequence[str] = CITYSCAPES_CLASSES,
    colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS,
    cell_width: int = 400,
) -> Image.Image:
    """Draw the sheet.

    Args:
        columns: headings, for example `("image", "truth", "prediction")`.
        rows: (caption, one array per column). An (H, W, 3) uint8 array is an RGB image, an (H, W) uint8 array a label
            map, which is drawn in `colors` with black for ignored pixels, and None an empty cell. A caption that is
            equal to the one above is not repeated.
        title: line at the top, for example the name of the run; empty for none.
        classes: names of the classes by train id; the legend shows the first synonym.
        colors: RGB, 0..255, by train id.
        cell_width: width of a column in pixels; the height of an image keeps its aspect ratio.

    Returns:
        RGB image.

    Raises:
        ValueError: a row does not have one array per column.
    """
    for caption, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(f"row {caption!r} has {len(cells)} cells for {len(columns)} columns")
    width = 2 * _MARGIN + len(columns) * cell_width + (len(columns) - 1) * _GAP
    images = [[_draw_cell(cell, colors, cell_width) for cell in cells] for _, cells in rows]
    heights = [max((i.height for i in row if i is not None), default=cell_width // 2) for row in images]
    captions = [
        caption if index == 0 or caption != rows[index - 1][0] else "" for index, (caption, _) in enumerate(rows)
    ]
    key = legend(classes, colors, width - 2 * _MARGIN)
    top = _MARGIN + (_TITLE + 16 if title else 0)
    grid_height = sum(
        height + _GAP + (_HEADING + 14 if caption else 0) for height, caption in zip(heights, captions, strict=True)
    )
    sheet = Image.new("RGB", (width, top + _HEADING + _GAP + grid_height + 2 * _MARGIN + key.height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(_TITLE), anchor="lt")
    lefts = [_MARGIN + index * (cell_width + _GAP) for index in range(len(columns))]
    for left, name in zip(lefts, columns, strict=True):
        draw.text((left + cell_width // 2, top), name, fill=_INK, font=_font(_HEADING), anchor="mt")
    y = top + _HEADING + _GAP
    for caption, row, height in zip(captions, images, heights, strict=True):
        if caption:
            draw.text((_MARGIN, y + 5), caption, fill=_INK, font=_font(_HEADING), anchor="lt")
            y += _HEADING + 14
        _paste_row(sheet, row, lefts, y, (cell_width, height))
        y += height + _GAP
    y += _MARGIN - _GAP
    draw.line((_MARGIN, y, width - _MARGIN, y), fill=_FAINT)
    sheet.paste(key, (_MARGIN, y + 12))
    return sheet


def _paste_row(
    sheet: Image.Image, row: Sequence[Image.Image | None], lefts: Sequence[int], y: int, cell: tuple[int, int]
) -> None:
    """Paste images at x in `lefts`, centred in cells of (width, height) from `y` on; None draws an empty frame."""
    width, height = cell
    for left, image in zip(lefts, row, strict=True):
        if image is None:
            ImageDraw.Draw(sheet).rectangle((left, y, left + width - 1, y + height - 1), outline=_FAINT)
        else:
            sheet.paste(image, (left, y + (height - image.height) // 2))


def _draw_cell(cell: npt.NDArray[np.uint8] | None, colors: Sequence[Sequence[int]], width: int) -> Image.Image | None:
    if cell is None:
        return None
    size = width, max(1, round(width * cell.shape[0] / cell.shape[1]))
    if cell.ndim == 3:
        return Image.fromarray(cell).resize(size, Image.Resampling.BICUBIC)
    # Colors are averaged after they are drawn: nearest neighbor would interrupt thin objects such as poles.
    return Image.fromarray(colorize(cell, colors)).resize(size, Image.Resampling.BOX)


def legend(classes: Sequence[str], colors: Sequence[Sequence[int]], width: int) -> Image.Image:
    """Draw a strip of colors with names.

    Args:
        classes: names of the classes; the strip shows the first synonym.
        colors: RGB, 0..255, for each name.
        width: width of the strip in pixels, at which its lines are wrapped.

    Returns:
        RGB image; its height is 0 without classes.
    """
    font = _font(_TEXT)
    names = [short_name(name) for name in classes]
    entry = _SWATCH + 6 + max((int(font.getlength(name)) for name in names), default=0) + 16
    fitting = max(1, width // entry)
    per_line = -(-len(names) // -(-len(names) // fitting)) if names else 1  # lines of similar length
    line_height = _SWATCH + 8
    strip = Image.new("RGB", (width, -(-len(names) // per_line) * line_height), _PAPER)
    draw = ImageDraw.Draw(strip)
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        x, y = index % per_line * entry, index // per_line * line_height
        draw.rectangle((x, y, x + _SWATCH - 1, y + _SWATCH - 1), fill=tuple(color))
        draw.text((x + _SWATCH + 6, y + _SWATCH // 2), name, fill=_INK, font=font, anchor="lm")
    return strip


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
