"""A file that is not an image is named by its content, with advice that fits."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from clouds.data.label_readers import read_ids, read_red_ids
from clouds.errors import UserError
from clouds.utils.file_kinds import HEAD, foreign_kind
from clouds.utils.images import image_size, read_image


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as packed:
            packed.writestr("x.png", b"pixels")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as packed:
            packed.addfile(tarfile.TarInfo("x.png"))
    return buffer.getvalue()


KINDS = [
    (b"", "an empty file: copy or download it again"),
    (b"<!DOCTYPE html><html><body>Please log in</body></html>", "a web page, .*: log in"),
    (b"\n\n <HTML>\n<head>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer.*: run `git lfs pull`"),
    (b'<?xml version="1.0"?><svg width="4">', "an SVG drawing: export it as PNG"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a text file that begins with .*error message of the server"),
    (b'{"error": "quota"}', "a text file that begins with"),
    ("Zugriff verweigert: straße, größe".encode() * 40, "a text file that begins with 'Zugriff verweigert"),
    ("404 not found".encode("utf-16"), "a text file that begins with '404 not found'"),
    (b"\0\0\0\x20ftypisom\0\0\2\0", "a video: extract its frames"),
    (b"RIFF\x24\0\0\0AVI LIST", "a video"),
    (b"\x1a\x45\xdf\xa3\x01\0\0\0", "a video"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a HEIC image: convert it to PNG"),
    (b"\0\0\0\x18ftypcrx \0\0\0\1", "a camera raw file: develop it"),
    (archive("zip"), "a ZIP archive: unpack it"),
    (archive("tar"), "a tar archive: unpack it"),
    (gzip.compress(b"x"), "a gzip archive: unpack it"),
    (b"%PDF-1.7\n", "a PDF document: export it"),
    (b"8BPS\0\1" + bytes(30), "a Photoshop file"),
    (b"\x93NUMPY\1\0", "a NumPy array"),
]


@pytest.mark.parametrize(("content", "said"), KINDS, ids=[said for _, said in KINDS])
def test_the_kind_and_the_advice_are_said_wherever_an_image_is_read(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for kind, read in (
        ("image", read_image),
        ("image", image_size),
        ("label map", read_ids),
        ("label map", read_red_ids),
    ):
        with pytest.raises(UserError, match=rf"^The {kind} .*x\.png is {said}") as error:
            read(str(path))
        assert ("again" in str(error.value)) == (not content)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0", bytes(HEAD)])
def test_a_damaged_image_is_of_no_other_kind(content: bytes) -> None:
    assert foreign_kind(content) is None


def test_a_character_cut_at_the_end_of_the_head_is_text() -> None:
    kind = foreign_kind(("x" * (HEAD - 1) + "ß").encode()[:HEAD])
    assert kind is not None and kind.name.startswith("a text file")
