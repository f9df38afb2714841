"""Images inside a report, as data URIs: the page needs no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.utils.images import encoded, read_image

_DENSITY = 2  # pixels of an image for each pixel of the page: what good screens and printers show
_QUALITY = 88  # of JPEG


@dataclass(frozen=True)
class Embedded:
    """An image inside the page.

    Attributes:
        source: data URI.
        alternative: description for those who cannot see the image.
        width: width in pixels of the page.
        height: height in pixels of the page.
    """

    source: str
    alternative: str
    width: int
    height: int


def embed_photo(path: Path, alternative: str, width: int) -> Embedded:
    """Return a photo as JPEG, not larger than the page can show it.

    Args:
        path: image file.
        alternative: description of the image.
        width: width in pixels of the page.

    Raises:
        UserError: the file is missing or damaged.
    """
    return embed(_shrunk(read_image(str(path)), width, Image.Resampling.LANCZOS), alternative, width, "jpeg")


def embed_sheet(path: Path, alternative: str, width: int) -> Embedded:
    """Return a drawing with text and flat colors without loss; arguments and errors as in `embed_photo`."""
    return embed(read_image(str(path)), alternative, width, "png")


def embed_labels(
    labels: npt.NDArray[np.uint8], colors: Sequence[Sequence[int]], alternative: str, width: int
) -> Embedded:
    """Return a label map in the colors of its classes.

    Args:
        labels: (H, W) uint8 train ids; ids without a color are black.
        colors: RGB 0..255 by train id.
        alternative: description of the image.
        width: width in pixels of the page.
    """
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    image = Image.fromarray(labels)
    image.putpalette(palette.tobytes())
    return embed(_shrunk(image, width, Image.Resampling.NEAREST), alternative, width, "png")


def _shrunk(image: Image.Image, width: int, method: Image.Resampling) -> Image.Image:
    most = _DENSITY * width
    if image.width <= most:
        return image
    return image.resize((most, max(1, round(most * image.height / image.width))), method)


def embed(image: Image.Image, alternative: str, width: int, kind: str) -> Embedded:
    """Return an image with all its pixels.

    Args:
        image: image of Pillow.
        alternative: description of the image.
        width: width in pixels of the page.
        kind: "jpeg" for a photo, "png" for a drawing.
    """
    content = encoded(image, kind, optimize=True, **({"quality": _QUALITY} if kind == "jpeg" else {}))
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return Embedded(source, alternative, width, max(1, round(width * image.height / image.width)))
