"""Reading images, with one clear sentence when a file is not what it should be."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clouds.errors import UserError

PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
"""The last chunk of every PNG."""

# What Pillow raises on damaged files. Pillow reads them, not OpenCV, which is as fast but hands back a truncated
# picture, grey from some row on, without a word.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: str) -> Image.Image:
    """The picture in `path` as 8-bit RGB, upright (EXIF orientation applied), fully decoded.

    Raises:
        UserError: no such file, or it is no picture, truncated or corrupt.
    """
    with readable(path, "image"), Image.open(path) as file:
        file.load()
        upright = ImageOps.exif_transpose(file) if file.getexif() else file
        if upright.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return upright if upright.mode == "RGB" else upright.convert("RGB")


def check_end(path: str) -> None:
    """Raises UserError where a PNG stops before its end: Pillow reads one that lacks its last bytes without a word."""
    with readable(path, "picture"), Path(path).open("rb") as stream:
        is_png = stream.read(4) == b"\x89PNG"
        stream.seek(-min(stream.seek(0, io.SEEK_END), 1024), io.SEEK_END)  # some programs add a few bytes
        if is_png and PNG_END not in stream.read():
            raise ValueError("its end is missing")


@contextlib.contextmanager
def readable(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"The {what} {path} does not exist: it was moved or removed after the data set was listed."
        ) from None
    except PermissionError:
        raise UserError(f"The {what} {path} may not be read: see the permissions of the file and its folder.") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"The {what} {path} cannot be read ({reason}): copy or download it again.") from error
