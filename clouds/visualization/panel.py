"""Panel of pseudo-labels: label map of the teacher, prompts of SAM, and refined label map."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS
from clouds.visualization.palette import colorize
from clouds.visualization.sheet import comparison_sheet

UInt8Array = npt.NDArray[np.uint8]

DOT_RADIUS = 2  # pixels


class PanelRow(NamedTuple):
    """Row of the panel: one generated image. In label maps, 255 means no label.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        teacher: (H, W) uint8 train ids predicted by the teacher.
        points: (N, 2) float, x and y of the prompts in pixels; N may be 0.
        refined: (H, W) uint8 train ids after refinement by SAM.
        truth: (H, W) uint8 train ids of the ground truth; None if there is none.
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
    """Draw the panel. The columns are image, teacher with prompts, refined and, if any row has it, truth.

    Args:
        rows: rows of the panel.
        title: line at the top; empty for none.
        classes: names of the classes by train id, for the legend.
        colors: RGB, 0..255, by train id.
        cell_width: width of a column in pixels.

    Returns:
        RGB image.
    """
    columns = ["image", "teacher and prompts", "refined"]
    cells: list[list[UInt8Array | None]] = [
        [row.image, with_points(colorize(row.teacher, colors), row.points, cell_width), row.refined] for row in rows
    ]
    if any(row.truth is not None for row in rows):
        columns.append("truth")
        for line, row in zip(cells, rows, strict=True):
            line.append(row.truth)
    return comparison_sheet(
        columns, [("", line) for line in cells], title=title, classes=classes, colors=colors, cell_width=cell_width
    )


def with_points(image: UInt8Array, points: npt.NDArray[np.floating], width: int) -> UInt8Array:
    """Resize an image and draw a white dot with a dark ring at each point.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (N, 2) x and y in pixels of `image`; the center of the first pixel is (0, 0).
        width: width of the result in pixels; the height keeps the aspect ratio.

    Returns:
        (h, width, 3) uint8 RGB.
    """
    height, old_width = image.shape[:2]
    scale = width / old_width
    drawn = Image.fromarray(image).resize((width, max(1, round(height * scale))), Image.Resampling.BOX)
    draw = ImageDraw.Draw(drawn)
    for x, y in (points + 0.5) * scale - 0.5:  # centres of pixels are at whole numbers
        draw.circle((float(x), float(y)), DOT_RADIUS + 1, fill=(0, 0, 0))
        draw.circle((float(x), float(y)), DOT_RADIUS, fill=(255, 255, 255))
    return np.asarray(drawn)
