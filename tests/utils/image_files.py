"""Image files that Pillow cannot write: PNGs of any bit depth with any chunks, TIFFs of any type."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def png(rows: list[bytes], width: int, bits: int, color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of packed rows; the chunks stand before the pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def by_opencv(pixels: np.ndarray, suffix: str) -> bytes:
    """Return the file of an array of any type; colors are blue, green, red."""
    encoded, data = cv2.imencode(suffix, pixels)
    assert encoded
    return data.tobytes()


def by_pillow(image: Image.Image, kind: str, orientation: int | None = None, **options: object) -> bytes:
    """Return the file of an image, with an EXIF orientation if one is given."""
    if orientation is not None:
        options["exif"] = exif = Image.Exif()
        exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
