"""Reading images; a missing or damaged file is a `UserError` of one sentence."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clouds.errors import UserError

# Images are read by Pillow, not OpenCV: as fast, but OpenCV returns a truncated image, grey from some row on, silently.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Exceptions that Pillow raises on damaged files."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Suffixes of the supported image files, in lower case."""

_PNG_START = b"\x89PNG"
_PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"  # the last chunk of every PNG
_TAIL = 1024  # bytes; some programs append a few to a PNG


def read_image(path: str) -> Image.Image:
    """Read an image as 8-bit RGB, upright (EXIF orientation applied) and fully decoded.

    Raises:
        UserError: the file is missing, not an image, truncated or corrupt.
    """
    with explain_read_errors(path, "image"), Image.open(path) as file:
        file.load()
        upright = ImageOps.exif_transpose(file) if file.getexif() else file
        if upright.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return upright if upright.mode == "RGB" else upright.convert("RGB")


def image_size(path: str) -> tuple[int, int]:
    """Return (width, height) of an image file, in pixels, without decoding it.

    Raises:
        UserError: the file is missing or not an image.
    """
    with explain_read_errors(path, "image"), Image.open(path) as file:
        return file.size


def is_truncated_png(content: bytes) -> bool:
    """Whether bytes are a PNG without its last chunk.

    Pillow decodes such a file silently if all pixels are there.
    """
    return content.startswith(_PNG_START) and _PNG_END not in content[-_TAIL:]


def check_png_end(path: str, kind: str = "image") -> None:
    """Check that a file is not a truncated PNG, reading its ends only; other formats pass.

    Args:
        path: path of the file.
        kind: "image" or "label map", for error messages.

    Raises:
        UserError: the file cannot be read or is a truncated PNG.
    """
    with explain_read_errors(path, kind), Path(path).open("rb") as stream:
        start = stream.read(len(_PNG_START))
        stream.seek(-min(stream.seek(0, io.SEEK_END), _TAIL), io.SEEK_END)
        if is_truncated_png(start + stream.read()):
            raise ValueError("its end is missing")


@contextlib.contextmanager
def explain_read_errors(path: str, kind: str) -> Iterator[None]:
    """Turn the errors of reading a file into a `UserError`.

    Args:
        path: path of the file, for the error message.
        kind: "image" or "label map", for the error message.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"The {kind} {path} does not exist: it was moved or removed after the data set was listed."
        ) from None
    except PermissionError:
        raise UserError(f"The {kind} {path} may not be read: see the permissions of the file and its folder.") from None
    except DECODE_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"The {kind} {path} cannot be read ({reason}): copy or download it again.") from error
