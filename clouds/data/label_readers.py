"""Readers of label files: the values in a file, whatever they mean.

`READERS` has one reader per kind of file; adding one is one entry. `clouds.data.encoding` gives the values a meaning.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clouds.data.classes import CITYSCAPES_LABELS
from clouds.errors import UserError
from clouds.utils.images import explain_read_errors

Values = npt.NDArray[np.integer]
LabelKind = Literal["train_ids", "ids", "colors", "red_ids", "cityscapes"]


def read_ids(path: str) -> Values:
    """Read the ids in an image of one channel: gray, palette index, or 16 bits.

    Returns:
        (H, W) array of integers.

    Raises:
        UserError: the file is missing, truncated or corrupt, or has more than one channel.
    """
    with explain_read_errors(path, "label map"), Image.open(path) as file:
        mode, values = file.mode, np.asarray(file)
    if values.ndim != 2:
        raise UserError(
            f"{path} is a {mode} image, not a label map: it must have one channel of ids; "
            "if it is the color version, use the one with ids (see datasets/README.md)."
        )
    return values


def read_colors(path: str) -> Values:
    """Read the colors of a label map whose classes are colors: RGB, RGBA or palette.

    Returns:
        (H, W) int32 array of `pack_colors` values.

    Raises:
        UserError: the file is missing, truncated or corrupt, or has one channel.
    """
    with explain_read_errors(path, "label map"), Image.open(path) as file:
        mode = file.mode
        colors = np.asarray(file.convert("RGB"))
    if mode not in ("RGB", "RGBA", "P"):
        raise UserError(
            f"{path} is a {mode} image, but the labels of its data set are colors: if it is the version with ids, set "
            "`encoding: ids` or `train_ids`, else use the colored one."
        )
    return pack_colors(colors)


def pack_colors(colors: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Return 65536 R + 256 G + B of (..., 3) RGB colors, 0 to 255: (...) int32."""
    wide = colors.astype(np.int32)
    values: npt.NDArray[np.int32] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return values


def unpack_color(value: int) -> tuple[int, int, int]:
    """Return (R, G, B), the color of a value of `pack_colors`."""
    return value >> 16, value >> 8 & 255, value & 255


def read_red_ids(path: str) -> Values:
    """Read the ids in the red channel of a 16-bit RGB PNG, the format of SYNTHIA.

    Returns:
        (H, W) uint16 array.

    Raises:
        UserError: the file is missing, truncated or corrupt, or of another format.
    """
    with explain_read_errors(path, "label map"):
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as file:
            file.verify()  # OpenCV, which reads 16-bit colors where Pillow does not, overlooks damage
        label = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if label is None or label.ndim != 3 or label.dtype != np.uint16:
        raise UserError(
            f"{path} is no 16-bit RGB image, as SYNTHIA's label maps are: take those of GT/LABELS from the "
            "download of SYNTHIA-RAND-CITYSCAPES."
        )
    # OpenCV's order is blue, green, red. A contiguous copy: what follows takes a third of the time.
    return np.asarray(cv2.extractChannel(label, label.shape[2] - 1), np.uint16)


def read_cityscapes_ids(path: str) -> Values:
    """Read the label ids of a Cityscapes `*_labelIds.png` or `*_polygons.json`.

    Returns:
        (H, W) array of integers.

    Raises:
        UserError: see `read_ids` and `draw_polygons`.
    """
    return draw_polygons(path) if path.endswith(".json") else read_ids(path)


def draw_polygons(path: str) -> npt.NDArray[np.uint8]:
    """Draw the label ids of a Cityscapes `*_polygons.json`, as the Cityscapes scripts do.

    Later polygons cover earlier ones. Deleted polygons and license plates, which have a negative id, are left out, and
    a group of a class ("cargroup") counts as the class.

    Returns:
        (H, W) uint8 array of label ids, 0 where there is no polygon.

    Raises:
        UserError: the file has another format, or a label that Cityscapes does not have.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        size = content["imgWidth"], content["imgHeight"]
        polygons = [
            (shape["label"], [tuple(point) for point in shape["polygon"]])
            for shape in content["objects"]
            if not shape.get("deleted")
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The polygons {path} cannot be read ({error!r}): copy or download them again.") from error
    canvas = Image.new("L", size, 0)
    draw = ImageDraw.Draw(canvas)
    for label, points in polygons:
        name = label if label in CITYSCAPES_LABELS else label.removesuffix("group")
        if name == "license plate":
            continue
        if name not in CITYSCAPES_LABELS:
            raise UserError(f"{path} has a polygon of {label!r}, which is no label of Cityscapes: download it again.")
        try:
            draw.polygon(points, fill=CITYSCAPES_LABELS.index(name))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} has a polygon of {label!r} that cannot be drawn ({error}).") from error
    return np.asarray(canvas)


READERS: dict[LabelKind, Callable[[str], Values]] = {
    "train_ids": read_ids,
    "ids": read_ids,
    "colors": read_colors,
    "red_ids": read_red_ids,
    "cityscapes": read_cityscapes_ids,
}
"""Reader of the values in a label file, by the kind of file."""
