"""Pictures inside a report: alone, in a grid of rows and columns, as tiles with captions."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, short_name
from clouds.errors import UserError
from clouds.utils.images import read_image
from clouds.visualization.html import Html, element, figure

UInt8Array = npt.NDArray[np.uint8]

_FEW = 256  # colours: what a palette holds
_QUALITY = 85  # of a JPEG
_DENSITY = 2  # pixels of a photo for one of the page: good screens and printers show that many
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


def picture(image: Path | UInt8Array, alt: str, width: int) -> Html:
    """A picture inside the page.

    A PNG or JPEG file is taken as it is. Of arrays, those with few colours, as label maps have, are kept exactly;
    photos are made smaller than `width` demands at most, and lossy.

    Args:
        image: file, or (H, W, 3) uint8 RGB.
        alt: what it shows, for those who cannot see it.
        width: in pixels of the page. In a grid or a gallery a picture is as wide as its place instead.

    Raises:
        UserError: no such file, or a damaged one.
        ValueError: an array of another shape or type.
    """
    if isinstance(image, Path):
        kind, data, size = _from_file(image, width)
    elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        kind, data, size = _encode(image, width)
    else:
        raise ValueError(f"{alt!r} is an array {image.shape} of {image.dtype}; a picture is (H, W, 3) of uint8")
    return element(
        "img",
        src=f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}",
        alt=alt,
        width=width,
        height=max(1, round(width * size[1] / size[0])),
    )


def picture_grid(
    column_titles: Sequence[str], rows: Sequence[tuple[str, Sequence[Html | None]]], *, caption: str = ""
) -> Html:
    """Pictures to be compared: a row an example, a column each for image, truth and predictions.

    On a small screen the pictures of a row stand two by two, each with the title of its column.

    Args:
        column_titles: above the pictures.
        rows: title of the row, empty for none, and a picture a column, None for an empty place.
        caption: of the grid.

    Raises:
        ValueError: a row has not as many pictures as there are columns.
    """
    width = len(column_titles)
    bodies = []
    for title, pictures in rows:
        if len(pictures) != width:
            raise ValueError(f"row {title!r} has {len(pictures)} pictures for {width} columns")
        cells = [
            element("td", element("figure", shown, element("figcaption", column)) if shown else Html())
            for shown, column in zip(pictures, column_titles, strict=True)
        ]
        heading = element("tr", element("th", title, colspan=width, scope="rowgroup"), class_="group")
        bodies.append(element("tbody", heading if title else Html(), element("tr", *cells)))
    if not bodies:
        return Html()
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in column_titles)))
    return figure(element("table", head, *bodies, class_="pictures"), caption, kind="grid")


def gallery(items: Iterable[tuple[Html, str]], *, caption: str = "") -> Html:
    """Tiles of a picture with its own caption, such as generated images with their prompts. Nothing for no items."""
    tiles = [
        element("li", element("figure", shown, element("figcaption", said) if said else Html()))
        for shown, said in items
    ]
    return figure(element("ul", *tiles, class_="gallery"), caption) if tiles else Html()


def color_key(classes: Sequence[str] = CITYSCAPES_CLASSES, colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS) -> Html:
    """What the colours of label maps mean.

    Args:
        classes: names by train id, of which the first synonym is shown.
        colors: RGB by train id.
    """
    entries = []
    for name, (red, green, blue) in zip(classes, colors, strict=True):
        square = element("rect", width=12, height=12, rx=2, fill=f"#{red:02x}{green:02x}{blue:02x}")
        swatch = element("svg", square, viewBox="0 0 12 12", class_="swatch", aria_hidden="true")
        entries.append(element("li", swatch, short_name(name)))
    return element("ul", *entries, class_="key") if entries else Html()


def _from_file(path: Path, width: int) -> tuple[str, bytes, tuple[int, int]]:
    """Kind, data, (width, height) of a file; what browsers may not show is encoded anew."""
    if not path.is_file():
        raise UserError(f"The picture {path}, which the report shows, does not exist: make it, or leave it out.")
    upright = read_image(str(path))
    data = path.read_bytes()
    for start, kind in _KINDS.items():
        if data.startswith(start):
            return kind, data, upright.size
    return _encode(np.asarray(upright), width)


def _encode(pixels: UInt8Array, width: int) -> tuple[str, bytes, tuple[int, int]]:
    """Kind, data, (width, height) of an array."""
    height, old_width = pixels.shape[:2]
    buffer = io.BytesIO()
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colors, places = np.unique(packed, return_inverse=True)
    if len(colors) <= _FEW:
        indexed = Image.fromarray(places.reshape(packed.shape).astype(np.uint8), "P")
        indexed.putpalette(np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8).tobytes())
        indexed.save(buffer, "PNG", optimize=True)
        return "png", buffer.getvalue(), (old_width, height)
    photo = Image.fromarray(pixels)
    if old_width > _DENSITY * width:
        size = _DENSITY * width, max(1, round(_DENSITY * width * height / old_width))
        photo = photo.resize(size, Image.Resampling.LANCZOS)
    photo.save(buffer, "JPEG", quality=_QUALITY, optimize=True, progressive=True)
    return "jpeg", buffer.getvalue(), (old_width, height)
