"""One picture of a few pseudo-labels: what the teacher says, where SAM was asked, what remains."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS
from clouds.visualization.palette import colorize
from clouds.visualization.sheet import picture_sheet

UInt8Array = npt.NDArray[np.uint8]

DOT = 2  # pixels, radius of a prompt


class PanelRow(NamedTuple):
    """One generated image; 255 = no label.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        teacher: (H, W) uint8 train ids.
        points: (N, 2) float, the prompts' x and y in pixels; N = 0 where there are none.
        refined: (H, W) uint8 train ids.
        truth: (H, W) uint8 train ids, or None.
    """

    image: UInt8Array
    teacher: UInt8Array
    points: npt.NDArray[np.floating]
    refined: UInt8Array
    truth: UInt8Array | None = None


def pseudo_label_panel(
    rows: Sequence[PanelRow],
    *,
    title: str = "",
    classes: Sequence[str] = CITYSCAPES_CLASSES,
    colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS,
    cell_width: int = 320,
) -> Image.Image:
    """A sheet with a row an image: image, the teacher's map with the prompts on it, refined map and, where any row has
    one, the truth.

    Args:
        rows: the images.
        title: line at the top.
        classes: names by train id, for the legend.
        colors: RGB by train id.
        cell_width: of one picture in pixels.

    Returns:
        RGB picture.
    """
    columns = ["image", "teacher and prompts", "refined"]
    cells: list[list[UInt8Array | None]] = [
        [row.image, with_points(colorize(row.teacher, colors), row.points, cell_width), row.refined] for row in rows
    ]
    if any(row.truth is not None for row in rows):
        columns.append("truth")
        for line, row in zip(cells, rows, strict=True):
            line.append(row.truth)
    return picture_sheet(
        columns, [("", line) for line in cells], title=title, classes=classes, colors=colors, cell_width=cell_width
    )


def with_points(picture: UInt8Array, points: npt.NDArray[np.floating], width: int) -> UInt8Array:
    """A picture at a `width` of its own, with a white dot in a dark ring at each point.

    Args:
        picture: (H, W, 3) uint8.
        points: (N, 2) x and y in pixels of `picture`.
        width: in pixels; the height keeps the aspect ratio.

    Returns:
        (h, width, 3) uint8.
    """
    height, old_width = picture.shape[:2]
    scale = width / old_width
    drawn = Image.fromarray(picture).resize((width, max(1, round(height * scale))), Image.Resampling.BOX)
    draw = ImageDraw.Draw(drawn)
    for x, y in (points + 0.5) * scale - 0.5:  # pixels have their centres at whole numbers
        draw.circle((float(x), float(y)), DOT + 1, fill=(0, 0, 0))
        draw.circle((float(x), float(y)), DOT, fill=(255, 255, 255))
    return np.asarray(drawn)
