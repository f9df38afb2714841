"""PNGs decoded by kornia-rs have the values that Pillow and OpenCV read; all other files are left to these."""

import importlib
import logging
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.data.label_readers import read_channel, read_ids, read_red_ids
from clouds.errors import UserError
from clouds.utils import png as module
from clouds.utils.images import raw_mode, read_image
from clouds.utils.png import decode_png
from tests.utils.image_files import by_opencv, by_pillow, png

RGB = np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)
DEEP = RGB.astype(np.uint16) * 257 + 5
GRAY = RGB[..., 0]


@pytest.fixture
def kornia() -> None:
    pytest.importorskip("kornia_rs.io", reason="kornia-rs is not installed")


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "kornia_rs", None)
    module._kornia.cache_clear()
    yield
    module._kornia.cache_clear()


def write(folder: Path, content: bytes) -> str:
    path = folder / "x.png"
    path.write_bytes(content)
    return str(path)


def decoded(path: str) -> np.ndarray | None:
    with Image.open(path) as file:
        return decode_png(path, file, raw_mode(file))


def palette(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels, "P")
    image.putpalette([value * 7 % 256 for value in range(768)])
    return image


def interlaced(pixels: np.ndarray) -> bytes:
    """Return a gray PNG by Adam7."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[top::down, left::right] for top, left, down, right in passes]
    data = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = b"".join(int(side).to_bytes(4, "big") for side in pixels.shape[::-1]) + bytes([8, 0, 0, 0, 1])
    return chunks((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))


def chunks(*named: tuple[bytes, bytes]) -> bytes:
    made = [
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in named
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def after_pixels(content: bytes, name: bytes, data: bytes) -> bytes:
    return content[:-12] + chunks((name, data))[8:] + content[-12:]


FILES = {
    "RGB": (by_pillow(Image.fromarray(RGB), "PNG"), RGB),
    "RGBA": (by_pillow(Image.fromarray(RGB).convert("RGBA"), "PNG"), np.dstack([RGB, np.full_like(GRAY, 255)])),
    "gray": (by_pillow(Image.fromarray(GRAY), "PNG"), GRAY),
    "palette": (by_pillow(palette(GRAY), "PNG", bits=8), GRAY),
    "interlaced": (interlaced(GRAY), GRAY),
    "transparent color": (by_pillow(Image.fromarray(RGB), "PNG", transparency=tuple(RGB[0, 0].tolist())), RGB),
    "16-bit RGB": (by_opencv(DEEP[..., ::-1], ".png"), DEEP),
    "16-bit RGBA": (by_opencv(np.dstack([DEEP[..., ::-1], DEEP[..., 0]]), ".png"), np.dstack([DEEP, DEEP[..., 0]])),
    "time after the pixels": (after_pixels(by_pillow(Image.fromarray(RGB), "PNG"), b"tIME", bytes(7)), RGB),
}


@pytest.mark.usefixtures("kornia")
@pytest.mark.parametrize("name", FILES)
def test_the_values_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    pixels = decoded(write(tmp_path, content))
    assert pixels is not None and pixels.dtype == expected.dtype
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.usefixtures("kornia")
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    mode=st.sampled_from(["RGB", "RGBA", "L", "P"]),
    level=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_every_image_is_read_as_by_pillow(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, mode: str, level: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8) // (seed % 9 + 1)
    image = palette(pixels[..., 0]) if mode == "P" else Image.fromarray(pixels).convert(mode)
    path = write(tmp_path_factory.getbasetemp(), by_pillow(image, "PNG", compress_level=level))
    found = decoded(path)
    if mode == "P" and pixels[..., 0].max() < 16:
        return  # Pillow writes fewer bits
    np.testing.assert_array_equal(found, np.asarray(image))
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(image.convert("RGB")))


OTHERS = {
    "JPEG": by_pillow(Image.fromarray(RGB), "JPEG"),
    "one bit": by_pillow(Image.fromarray(GRAY > 99), "PNG"),
    "four bits": png([b"\x12"], 2, 4, 0),
    "gray and alpha": by_pillow(Image.fromarray(GRAY).convert("LA"), "PNG"),
    "16-bit gray": by_opencv(DEEP[..., 0], ".png"),
    "without end": FILES["RGB"][0][:-12],
    "damaged end": FILES["RGB"][0][:-1],
    "further bytes": FILES["RGB"][0] + b"\0",
    "EXIF after the pixels": after_pixels(FILES["RGB"][0], b"eXIf", b"MM\0*\0\0\0\x08\0\0"),
    "EXIF in a text after the pixels": after_pixels(FILES["RGB"][0], b"tEXt", b"Raw profile type exif\0x"),
}


@pytest.mark.usefixtures("kornia")
@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_left_to_pillow(tmp_path: Path, name: str) -> None:
    assert decoded(write(tmp_path, OTHERS[name])) is None


def test_an_orientation_after_the_pixels_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    path = write(tmp_path, after_pixels(FILES["RGB"][0], b"eXIf", exif.tobytes()[6:]))
    np.testing.assert_array_equal(np.asarray(read_image(path)), RGB[::-1, ::-1])
    gray = write(tmp_path, after_pixels(FILES["gray"][0], b"eXIf", exif.tobytes()[6:]))
    with pytest.raises(UserError, match="has the EXIF orientation 3"):
        read_ids(gray)


READERS = {
    "image": (read_image, "RGB", RGB),
    "image with alpha": (read_image, "RGBA", RGB),
    "gray image": (read_image, "gray", np.dstack([GRAY] * 3)),
    "ids": (read_ids, "gray", GRAY),
    "indices": (read_ids, "palette", GRAY),
    "16-bit red": (read_red_ids, "16-bit RGB", DEEP[..., 0]),
    "green": (lambda path: read_channel(1, path), "RGB", RGB[..., 1]),
    "16-bit blue": (lambda path: read_channel(2, path), "16-bit RGBA", DEEP[..., 2]),
    "16-bit alpha": (lambda path: read_channel(3, path), "16-bit RGBA", DEEP[..., 0]),
}


@pytest.mark.usefixtures("kornia")
@pytest.mark.parametrize("name", READERS)
def test_readers_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    read, file, expected = READERS[name]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded by OpenCV"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *_: pytest.fail("decoded by Pillow"))
    np.testing.assert_array_equal(np.asarray(read(write(tmp_path, FILES[file][0]))), expected)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("name", READERS)
def test_readers_do_without_it(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    read, file, expected = READERS[name]
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            np.testing.assert_array_equal(np.asarray(read(write(tmp_path, FILES[file][0]))), expected)
    assert [record.message for record in caplog.records if "kornia" in record.message] == [
        "kornia-rs is not installed: PNG files are decoded by Pillow and OpenCV, which takes longer"
    ]


@pytest.mark.parametrize("contents", [{}, {"io": ModuleType("kornia_rs.io")}])
def test_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, contents: dict
) -> None:
    other = ModuleType("kornia_rs")
    vars(other).update(contents)
    monkeypatch.setitem(sys.modules, "kornia_rs", other)
    monkeypatch.delitem(sys.modules, "kornia_rs.io", raising=False)
    for name, part in contents.items():
        monkeypatch.setitem(sys.modules, f"kornia_rs.{name}", part)
    module._kornia.cache_clear()
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(np.asarray(read_image(write(tmp_path, FILES["RGB"][0]))), RGB)
    module._kornia.cache_clear()
    assert "kornia-rs is of another version" in caplog.text


def outcome(read, path: str) -> object:
    try:
        found = np.asarray(read(path))
    except UserError as error:
        return str(error)
    return found.tolist(), found.dtype


@pytest.mark.usefixtures("kornia")
@given(name=st.sampled_from(["RGB", "gray", "palette", "16-bit RGB"]), data=st.data())
def test_damaged_files_are_refused_as_without_it(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(FILES[name][0])
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = write(tmp_path_factory.getbasetemp(), bytes(content))
    readers = (read_image, read_ids, read_red_ids)
    found = [outcome(read, path) for read in readers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_kornia", lambda: None)
        assert found == [outcome(read, path) for read in readers]


@pytest.mark.usefixtures("kornia")
def test_errors_of_the_call_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("kornia_rs.io")
    monkeypatch.setattr(library, "decode_image_png_u8", lambda content: None)
    with pytest.raises(TypeError):
        decoded(write(tmp_path, FILES["RGB"][0]))
