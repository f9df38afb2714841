"""Reading and encoding images; a missing, damaged or unsupported file is a `UserError` of one sentence.

An image becomes 8-bit RGB by these rules:

* Gray, palette and CMYK images are converted. Transparency, color profiles and gamma values are ignored.
* An EXIF orientation is applied.
* 16 bits per channel are divided by 256. A file without any value above 2^14 - 1 is refused: its pixels probably have
  14, 12 or fewer bits, and would be almost black.
* Refused are 32-bit and signed integers, floats, other color spaces, files of several frames or pages, camera raw
  files, and formats other than `FORMATS`. The format is that of the content; the suffix does not matter.
"""

import contextlib
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from clouds.errors import UserError
from clouds.utils.file_kinds import HEAD, foreign_kind
from clouds.utils.png import PNG_END, decode_png

# Other images than plain PNGs are read by Pillow, not OpenCV, which silently returns a truncated image, gray from some
# row on.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Exceptions that Pillow raises on damaged files."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Suffixes of the supported image files, in lower case."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Formats that are read, by Pillow's names. Pillow knows more, some of which start other programs (EPS)."""

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # of Pillow, with 8 bits per channel
_FAST = ("L", "RGB", "RGBA")  # raw modes of PNGs that decode_png decodes, as the mode of an image
_STARTS = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF")  # of formats without unsupported variants
_PNG_START = b"\x89PNG"
_PNG_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # entries of Pillow's `info`
_TAIL = 1024  # bytes; some programs append a few to a PNG
_DARK = 64  # no value of 14 bits reaches it after the division by 256
_CAMERA_RAW = {330, 50706}  # TIFF tags: the file has further images, the first is often a thumbnail


def read_image(path: str, *, labelled: bool = False) -> Image.Image:
    """Read an image as 8-bit RGB, upright (EXIF orientation applied) and fully decoded, see the rules of this module.

    Args:
        path: path of the image.
        labelled: refuse an EXIF orientation, because label maps have none.

    Raises:
        UserError: the file is missing, not an image, truncated, corrupt, or of an unsupported kind.
    """
    with open_image(path, "image") as file:
        deep = file.mode.startswith("I;16") or "16" in raw_mode(file)
        image, orientation = _decode(path, file)
        if labelled and orientation != 1:
            raise UserError(
                f"The image {path} has the EXIF orientation {orientation}, but its label map does not, so that the two "
                "may not match: turn its pixels as those of the label map are, and remove the orientation."
            )
        return _converted(path, image, orientation, deep)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of Pillow, decoded or not, to 8-bit RGB, upright, by the rules of this module.

    If its file has several frames or pages, the current one is converted, which may be `image` itself.

    Raises:
        UserError: the file of the image is truncated or corrupt, or the image is of an unsupported kind.
    """
    name = str(getattr(image, "filename", "")) or f"of mode {image.mode}"
    deep = image.mode.startswith("I;16") or (isinstance(image, ImageFile.ImageFile) and "16" in raw_mode(image))
    with explain_read_errors(name, "image"):
        return _converted(name, image, load_upright(image), deep)


def _converted(path: str, image: Image.Image, orientation: int, deep: bool) -> Image.Image:
    """Convert a decoded image to 8-bit RGB.

    Args:
        path: its path, for error messages.
        image: the image.
        orientation: its EXIF orientation, 1 to 8.
        deep: whether its file has 16 bits per channel.
    """
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode not in _MODES:
        what = {"I": "32-bit or signed integers", "F": "floats"}.get(image.mode, f"pixels in the mode {image.mode}")
        raise UserError(f"The image {path} has {what}, which are not scaled to colors: save it as 8-bit RGB.")
    if "transparency" in image.info:
        image = image.copy()
        image.info.pop("transparency")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if deep and np.asarray(image).max() < _DARK:
        raise UserError(
            f"The image {path} has 16 bits per channel, but no value above {256 * _DARK - 1}: it seems to hold 14 "
            "bits or fewer and would be almost black; scale it to 8 bits."
        )
    return image


def _decode(path: str, file: ImageFile.ImageFile) -> tuple[Image.Image, int]:
    """Decode an opened file. Return the image as it is stored, and its EXIF orientation."""
    stored = raw_mode(file)
    if file.format == "PNG" and stored in _FAST and header_orientation(file) == 1:
        pixels = decode_png(path, file, stored)
        if pixels is not None:
            return Image.fromarray(pixels), 1
    return file, load_upright(file)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the content of an image file, to be written by `clouds.utils.atomic.write_atomically`.

    Args:
        image: the image.
        kind: format by Pillow's name, such as "PNG".
        options: options of Pillow for this format.
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def image_size(path: str) -> tuple[int, int]:
    """Return (width, height) of an image, upright (EXIF orientation applied), in pixels, without decoding it.

    Raises:
        UserError: the file is missing or not an image.
    """
    with open_image(path, "image") as file:
        size: tuple[int, int] = file.size
        turned = file.format != "TIFF" and header_orientation(file) >= 5  # Pillow turns the size of a TIFF itself
        return size[::-1] if turned else size


@contextlib.contextmanager
def open_image(path: str, kind: str, *, several: bool = False) -> Iterator[ImageFile.ImageFile]:
    """Open an image file of a supported format, without decoding it.

    Args:
        path: path of the file.
        kind: "image" or "label map", for error messages.
        several: whether the file may have several frames or pages; see `frame_count`.

    Raises:
        UserError: the file is missing, no image, or of an unsupported kind; decoding it in the block fails.
    """
    with explain_read_errors(path, kind):
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (a Path costs more); reading a pipe would wait
            raise UserError(f"The {kind} {path} is not a file but a folder, pipe or device: move it away.")
        with pillow_errors():
            file = Image.open(path)
        with file:
            if file.format not in FORMATS:
                with Path(path).open("rb") as stream:
                    other = foreign_kind(stream.read(HEAD))
                what = f"{other.name}: {other.advice}" if other else f"a {file.format} file: convert it to PNG"
                raise UserError(f"The {kind} {path} is {what}.")
            if isinstance(file, TiffImageFile) and _CAMERA_RAW & file.tag_v2.keys():
                raise UserError(
                    f"The {kind} {path} is a camera raw file, or a TIFF of several images: save one image as PNG."
                )
            frames = 1 if several else frame_count(file)
            if frames > 1:
                raise UserError(f"The {kind} {path} has {frames} frames or pages: save each one as a file of its own.")
            yield file


def frame_count(file: ImageFile.ImageFile) -> int:
    """Return the number of frames or pages of an opened file. The second image in a JPEG (MPO) does not count."""
    if file.format == "MPO":  # a preview or the other eye's view
        return 1
    with pillow_errors():
        frames: int = getattr(file, "n_frames", 1)
        return frames


def raw_mode(file: ImageFile.ImageFile) -> str:
    """Return the layout of the pixels in an opened file that is not decoded yet, such as "L;4" or "RGB;16B".

    These are Pillow's raw modes; empty for formats that do not have one (WebP, GIF).
    """
    if not file.tile:
        return ""
    args = file.tile[0].args if isinstance(file.tile[0].args, tuple) else (file.tile[0].args,)
    return args[0] if args and isinstance(args[0], str) else ""


def load_upright(file: Image.Image) -> int:
    """Decode an opened file, unless it is decoded.

    Returns:
        Its EXIF orientation, 1 to 8; 1 is upright. Pillow has turned a TIFF already.
    """
    with pillow_errors():
        turned = _orientation(file) if file.format == "TIFF" else 1
        file.load()
        return turned if turned != 1 else _orientation(file)


def header_orientation(file: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, that the header of an opened file has; 1 is upright.

    EXIF data after the pixels of a PNG are not seen.
    """
    # Without this test Pillow would decode a PNG to find EXIF data that are not there.
    if file.format == "PNG" and not _PNG_EXIF & file.info.keys():
        return 1
    with pillow_errors():
        return _orientation(file)


def _orientation(file: Image.Image) -> int:
    orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


@contextlib.contextmanager
def pillow_errors() -> Iterator[None]:
    """Turn further exceptions of Pillow on damaged files, which elsewhere would be defects, into an `OSError`.

    Warnings of Pillow, such as "Corrupt EXIF data", are suppressed, because they do not name the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def is_truncated_png(content: bytes) -> bool:
    """Whether bytes are a PNG without its last chunk.

    Pillow decodes such a file silently if all pixels are there.
    """
    return content.startswith(_PNG_START) and PNG_END not in content[-_TAIL:]


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
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        size = f"{int(pixels[0]) / 1e6:.0f} megapixels" if pixels else "too many pixels"
        limit = f"{2e-6 * (Image.MAX_IMAGE_PIXELS or 0):.0f} megapixels"
        raise UserError(
            f"The {kind} {path} has {size}; the limit is {limit}: cut it into tiles or shrink it."
        ) from error
    except DECODE_ERRORS as error:
        raise UserError(f"The {kind} {path} {_explanation(path, error)}.") from error


def _explanation(path: str, error: Exception) -> str:
    """Return the end of a sentence about a file that cannot be read: what it is and what to do."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(HEAD)
    except (OSError, ValueError):
        return f"cannot be read ({reason}): copy or download it again"
    if other := foreign_kind(head):
        return f"is {other.name}: {other.advice}"
    if isinstance(error, UnidentifiedImageError):
        if not head.startswith(_STARTS):
            return "is damaged or no image of a supported kind: copy or download it again, or convert it to PNG"
        reason = "its header is damaged"
    return f"cannot be read ({reason}): copy or download it again"
