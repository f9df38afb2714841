"""Readers of label files: the values in a file, whatever they mean.

`READERS` has one reader per kind of file; adding one is one entry. `clouds.data.encoding` gives the values a meaning.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from clouds.data.classes import CITYSCAPES_LABELS
from clouds.errors import UserError
from clouds.utils.images import header_orientation, load_upright, open_image, raw_mode
from clouds.utils.json_files import read_json
from clouds.utils.png import decode_png

Values = npt.NDArray[np.integer]
Point = tuple[float, float]
"""x and y in pixels."""

_FORMATS = {"PNG", "TIFF", "BMP", "GIF", "WEBP"}  # lossless, or with a lossless variant; by Pillow's names
_GRAY_STEP = {"L;2": 85, "L;2R": 85, "L;4": 17, "L;4R": 17}  # Pillow scales gray values of 2 and 4 bits to 0..255
_INVERTED = re.compile(r"[1L];\d?I")  # raw modes of Pillow
_MAX_SIDE = 20_000  # pixels, of an image with polygons
_MAX_COORDINATE = 1_000_000  # pixels; Pillow draws polygons far outside the image slowly or not at all
_SAMPLE_FORMAT, _SIGNED = 339, 2  # TIFF tag, and its value for signed integers
LabelKind = Literal[
    "train_ids",
    "ids",
    "colors",
    "red_ids",
    "gray_ids",
    "red_channel",
    "green_channel",
    "blue_channel",
    "alpha_channel",
    "cityscapes",
]

CHANNELS: dict[str, LabelKind] = {
    "red": "red_channel",
    "green": "green_channel",
    "blue": "blue_channel",
    "alpha": "alpha_channel",
}
"""Kind of file whose ids are in one of its channels, by channel, in the order red, green, blue, alpha."""


def read_ids(path: str) -> Values:
    """Read the ids in an image of one channel: gray, palette index, or 1, 2, 4, 16 or 32 bits.

    Returns:
        (H, W) array of integers.

    Raises:
        UserError: the file is missing, truncated or corrupt, has more than one channel, or its values are not ids.
    """
    with _opened(path) as (file, stored):
        mode, values = file.mode, decode_png(path, file, stored) if stored in ("L", "P") else None
        if values is None:
            _check_upright(path, load_upright(file))
            values = np.asarray(file)
    if mode == "F":
        raise UserError(f"The label map {path} has floats, not ids: save it with integers.")
    if values.ndim != 2:
        raise UserError(
            f"{path} is a {mode} image, not a label map: it must have one channel of ids; "
            "if it is the color version, use the one with ids (see datasets/README.md)."
        )
    if values.dtype == np.bool_:
        return (values.view(np.uint8) != 0).view(np.uint8)  # Pillow's True is 255 in memory
    return values // _GRAY_STEP[stored] if stored in _GRAY_STEP else values


def read_colors(path: str) -> Values:
    """Read the colors of a label map whose classes are colors: RGB, RGBA (alpha is ignored) or palette.

    Returns:
        (H, W) int32 array of `pack_colors` values.

    Raises:
        UserError: the file is missing, truncated or corrupt, or has one channel or 16 bits.
    """
    with _opened(path) as (file, stored):
        mode = file.mode
        _check_upright(path, load_upright(file))
        file.info.pop("transparency", None)
        colors = np.asarray(file.convert("RGB"))
    if mode not in ("RGB", "RGBA", "P") or "16" in stored:
        kind = f"{mode} image{' of 16 bits' if '16' in stored else ''}"
        raise UserError(
            f"{path} is a {kind}, but the labels of its data set are colors: if it is the version with ids, set "
            "`encoding: ids` or `train_ids`, else use the colored one."
        )
    return pack_colors(colors)


def _decode_channels(path: str) -> npt.NDArray[Any] | None:
    """Return the channels (red, green, blue, alpha) of a PNG with all their bits; None for another format.

    Gray and palette images have one, or those of the colors in the palette.
    """
    with _opened(path) as (file, stored):
        if file.format != "PNG":
            return None
        if (channels := decode_png(path, file, stored)) is not None:
            return channels
    with open_image(path, "label map") as file:
        file.verify()  # OpenCV overlooks damage, Pillow finds it in a PNG by the checksums
    decoded = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.ndim == 2:
        return decoded
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB if decoded.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[ImageFile.ImageFile, str]]:
    """Open a label map; yield the file and Pillow's raw mode, the layout of its pixels."""
    with open_image(path, "label map") as file:
        stored = raw_mode(file)
        _check_exact(path, file, stored)
        _check_upright(path, header_orientation(file))
        yield file, stored


def _check_upright(path: str, orientation: int) -> None:
    if orientation != 1:
        raise UserError(
            f"The label map {path} has the EXIF orientation {orientation}, so that it may not match its image: turn "
            "the pixels of both as they should be, and remove the orientation."
        )


def _check_exact(path: str, file: ImageFile.ImageFile, stored: str) -> None:
    """Check that the decoded values will be those that were written.

    Raises:
        UserError: they may be others.
    """
    lossy = "tiff" if file.format == "TIFF" and re.search("jpeg|webp", str(file.info.get("compression"))) else ""
    if file.format not in _FORMATS or lossy or (file.format == "WEBP" and not _is_lossless_webp(path)):
        name = "JPEG" if file.format == "MPO" else file.format
        raise UserError(
            f"The label map {path} is a {name} file with a compression that may change its values: use the original "
            "label map as PNG; converting this one does not restore it."
        )
    problem = ""
    if _INVERTED.match(stored):
        problem = "is stored with inverted gray values (white is 0)"
    elif isinstance(file, TiffImageFile) and file.mode == "L" and file.tag_v2.get(_SAMPLE_FORMAT) == (_SIGNED,):
        problem = "has signed 8-bit values, of which Pillow reads -1 as 255"
    if problem:
        raise UserError(f"The label map {path} {problem}: save it as PNG with the ids as values.")


def _is_lossless_webp(path: str) -> bool:
    """Whether the pixels of a WebP file are in a chunk "VP8L"."""
    with Path(path).open("rb") as stream:
        place = stream.seek(12)  # after "RIFF", the size, and "WEBP"
        while len(header := stream.read(8)) == 8:
            if header[:4] in (b"VP8L", b"VP8 "):
                return header[:4] == b"VP8L"
            size = int.from_bytes(header[4:], "little")
            place = stream.seek(place + 8 + size + size % 2)
    return False


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
    label = _decode_channels(path)
    if label is None or label.ndim != 3 or label.dtype != np.uint16:
        raise UserError(
            f"{path} is no 16-bit RGB image, as SYNTHIA's label maps are: take those of GT/LABELS from the "
            "download of SYNTHIA-RAND-CITYSCAPES."
        )
    # A contiguous copy: what follows takes a third of the time.
    return np.asarray(cv2.extractChannel(label, 0), np.uint16)


def read_gray_ids(path: str) -> Values:
    """Read the ids in a gray image, which may be stored as RGB or RGBA with equal colors, as those of UrbanSyn.

    Returns:
        (H, W) array of integers.

    Raises:
        UserError: the file is missing, truncated or corrupt, or is colored.
    """
    with _opened(path) as (file, _):
        if len(file.getbands()) == 1:
            return read_ids(path)
    label = _decode_channels(path)
    if label is None or label.ndim != 3 or any((label[..., 0] != label[..., other]).any() for other in (1, 2)):
        raise UserError(
            f"{path} is colored, but the labels of its data set are gray values: use the version with ids, such as "
            "that in the folder ss of UrbanSyn."
        )
    return np.asarray(cv2.extractChannel(label, 0))


def read_channel(index: int, path: str) -> Values:
    """Read the ids in one channel of an RGB or RGBA image of 8 or 16 bits, such as the tags of CARLA.

    Args:
        index: 0 for red, 1 for green, 2 for blue, 3 for alpha.
        path: path of the file.

    Returns:
        (H, W) array of integers.

    Raises:
        UserError: the file is missing, truncated or corrupt, or does not have the channel.
    """
    label = _decode_channels(path)
    with open_image(path, "label map") as file:
        mode = file.mode  # Pillow's, because OpenCV turns palette images into colors
    if label is None or mode not in ("RGB", "RGBA") or len(mode) <= index:
        raise UserError(
            f"{path} is a {mode} image, but the labels of its data set are in the {[*CHANNELS][index]} channel: use "
            "the original files, or remove `channel` if they have only one."
        )
    return np.asarray(cv2.extractChannel(label, index))


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
    width, height, polygons = _read_polygons(path)
    canvas = Image.new("L", (width, height), 0)
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


def _read_polygons(path: str) -> tuple[int, int, list[tuple[str, list[Point]]]]:
    """Return the width and the height of the image, and the label and the points of each polygon."""
    remedy = "copy or download it again"
    content = read_json(Path(path), dict, remedy)
    try:
        width, height = (_side(content[key]) for key in ("imgWidth", "imgHeight"))
        polygons = []
        for shape in content["objects"]:
            if not isinstance(shape["label"], str):
                raise TypeError(f"the label is {shape['label']!r}")
            if not shape.get("deleted"):
                points = [(_number(x), _number(y)) for x, y in shape["polygon"]]
                polygons.append((shape["label"], points))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"The polygons {path} cannot be read ({error!r}): {remedy}.") from error
    return width, height, polygons


def _side(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_SIDE:
        raise ValueError(f"the size {value!r} is not 1 to {_MAX_SIDE} pixels")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or abs(value) > _MAX_COORDINATE:
        raise ValueError(f"the coordinate {value!r} is no number of at most {_MAX_COORDINATE}")
    return value


READERS: dict[LabelKind, Callable[[str], Values]] = {
    "train_ids": read_ids,
    "ids": read_ids,
    "colors": read_colors,
    "red_ids": read_red_ids,
    "gray_ids": read_gray_ids,
    **{kind: functools.partial(read_channel, index) for index, kind in enumerate(CHANNELS.values())},
    "cityscapes": read_cityscapes_ids,
}
"""Reader of the values in a label file, by the kind of file."""
