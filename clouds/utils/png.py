"""Fast decoding of PNG files with kornia-rs, two to five times as fast as Pillow and OpenCV.

It decodes what most data sets consist of, and nothing else: images and label maps of whole bytes per channel. Pillow
and OpenCV remain the reference: they read all other files, and those that kornia-rs refuses, so they decide what is
damaged. kornia-rs checks the length and the CRC-32 of each chunk, but not the Adler-32 checksum of the decompressed
pixels, which disagrees with the CRC-32 only in a file that a program wrote damaged.
"""

import functools
import logging
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
from PIL import ImageFile

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_MODES = {
    "L": ("u8", "mono"),
    "P": ("u8", "mono"),
    "RGB": ("u8", "rgb"),
    "RGBA": ("u8", "rgba"),
    "RGB;16B": ("u16", "rgb"),
    "RGBA;16B": ("u16", "rgba"),
}
"""Type and color type of kornia-rs by Pillow's raw mode, the layout of the pixels in the file."""

PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
"""The last chunk of every PNG."""

_EXIF = (b"eXIf", b"exif", b"xmp")  # parts of the chunks in which Pillow finds an orientation


def decode_png(path: str, file: ImageFile.ImageFile, stored: str) -> Pixels | None:
    """Decode a PNG without changing its values.

    Args:
        path: path of the file.
        file: this file, opened by Pillow and not decoded yet.
        stored: Pillow's raw mode of the file.

    Returns:
        (H, W) values or palette indices, or (H, W, 3 or 4) RGB or RGBA, uint8 or uint16; None if kornia-rs is not
        installed, does not decode such a file or refuses it, or if the file does not end with `PNG_END` or may have
        EXIF data after the pixels.
    """
    if file.format != "PNG" or stored not in _MODES or (library := _kornia()) is None:
        return None
    content = Path(path).read_bytes()
    if not _ends_plainly(content, file.tile[0].offset - 8):
        return None
    dtype, color_type = _MODES[stored]
    try:
        pixels = getattr(library, f"decode_image_png_{dtype}")(content, (file.height, file.width), color_type)
    except Exception as error:
        if type(error) is not Exception:  # the type by which kornia-rs refuses a file
            raise
        return None
    return pixels[..., 0] if color_type == "mono" else pixels


def _ends_plainly(content: bytes, position: int) -> bool:
    """Whether the pixels, whose first chunk begins at `position`, are followed by the last chunk and no EXIF data."""
    while content[position + 4 : position + 8] == b"IDAT":
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    rest = content[position:]
    return rest.endswith(PNG_END) and not any(name in rest for name in _EXIF)


@functools.cache
def _kornia() -> ModuleType | None:
    try:
        import kornia_rs.io
    except ImportError as error:
        what = "not installed" if error.name == "kornia_rs" else "of another version"
    else:
        if all(hasattr(kornia_rs.io, f"decode_image_png_{dtype}") for dtype, _ in _MODES.values()):
            return kornia_rs.io
        what = "of another version"
    logger.info(f"kornia-rs is {what}: PNG files are decoded by Pillow and OpenCV, which takes longer")
    return None
