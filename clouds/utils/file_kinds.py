"""The kind of a file by its first bytes, to say what lies in the place of an image."""

import re
from typing import NamedTuple

HEAD = 512
"""Number of bytes from the start of a file that `foreign_kind` needs."""


class FileKind(NamedTuple):
    """Kind of a file that is not a readable image."""

    name: str
    """Name with an article: "a ZIP archive"."""
    advice: str
    """Advice to the user, in the imperative."""


_CONVERT = "convert it to PNG or JPEG"
_UNPACK = "unpack it"
_FRAMES = "extract its frames as PNG or JPEG files"
_EXPORT = "export it as PNG"
_WEB_PAGE = FileKind(
    "a web page, for example one that asks for a login", "log in at its source and download the file itself"
)
_VIDEO = FileKind("a video", _FRAMES)
_RAW = FileKind("a camera raw file", "develop it to PNG or JPEG")
_HEIF = FileKind("a HEIC image", _CONVERT)

_STARTS: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"version https://git-lfs", FileKind("a Git LFS pointer, not the file itself", "run `git lfs pull`")),
    (0, b"PK\x03\x04", FileKind("a ZIP archive", _UNPACK)),
    (0, b"\x1f\x8b", FileKind("a gzip archive", _UNPACK)),
    (0, b"BZh", FileKind("a bzip2 archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7-Zip archive", _UNPACK)),
    (0, b"\xfd7zXZ", FileKind("an XZ archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", FileKind("a Zstandard archive", _UNPACK)),
    (0, b"Rar!", FileKind("a RAR archive", _UNPACK)),
    (257, b"ustar", FileKind("a tar archive", _UNPACK)),
    (4, b"ftypavi", FileKind("an AVIF image", _CONVERT)),
    (4, b"ftyphei", _HEIF),
    (4, b"ftyphev", _HEIF),
    (4, b"ftypmif1", _HEIF),
    (4, b"ftypmsf1", _HEIF),
    (4, b"ftypcrx", _RAW),
    (4, b"ftyp", _VIDEO),
    (4, b"moov", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"\x1a\x45\xdf\xa3", _VIDEO),  # Matroska, WebM
    (0, b"\x00\x00\x01\xba", _VIDEO),  # MPEG
    (0, b"\x00\x00\x01\xb3", _VIDEO),
    (0, b"FLV", _VIDEO),
    (0, b"OggS", _VIDEO),
    (8, b"CR\x02\x00", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIU\x00", _RAW),
    (0, b"%PDF", FileKind("a PDF document", _EXPORT)),
    (0, b"%!PS", FileKind("a PostScript document", _EXPORT)),
    (0, b"8BPS", FileKind("a Photoshop file", _EXPORT)),
    (0, b"gimp xcf", FileKind("a GIMP file", _EXPORT)),
    (0, b"\x76\x2f\x31\x01", FileKind("an OpenEXR image", "tone-map it to 8 bits and save it as PNG")),
    (0, b"#?RADIANCE", FileKind("a Radiance HDR image", "tone-map it to 8 bits and save it as PNG")),
    (0, b"\xff\x0a", FileKind("a JPEG XL image", _CONVERT)),
    (4, b"JXL ", FileKind("a JPEG XL image", _CONVERT)),
    (0, b"\x93NUMPY", FileKind("a NumPy array", "save it as PNG")),
    (0, b"\x89HDF", FileKind("an HDF5 file", "save its images as PNG")),
)


def foreign_kind(head: bytes) -> FileKind | None:
    """Return the kind of a file that is not an image, or is an image of an unsupported format.

    Args:
        head: first `HEAD` bytes of the file, or all bytes of a shorter file.

    Returns:
        The kind; None if it is unknown, for example of a damaged image.
    """
    if not head:
        return FileKind("an empty file", "copy or download it again and see that the disk is not full")
    for offset, magic, kind in _STARTS:
        if head.startswith(magic, offset):
            return kind
    return _text_kind(head)


def is_video(head: bytes) -> bool:
    """Return whether the first `HEAD` bytes of a file are those of a video."""
    return foreign_kind(head) is _VIDEO


def _text_kind(head: bytes) -> FileKind | None:
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    if encoding == "utf-16":
        head = head[: len(head) // 2 * 2]
    try:
        text = head.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else the last character is cut
            return None
        text = head[: error.start].decode(encoding)
    text = text.lstrip("\ufeff \t\r\n")
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return None
    lower = text.lower()
    if "<svg" in lower:
        return FileKind("an SVG drawing", _EXPORT)
    if lower.startswith("<!doctype html") or "<html" in lower:
        return _WEB_PAGE
    start = " ".join(text[:40].split())
    return FileKind(
        f"a text file that begins with {start!r}",
        "put the image in its place; if a download wrote it, it may be the error message of the server",
    )
