"""The values of a label map are read as they were written, or the file is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.data.encoding import LabelEncoding, read_train_ids
from clouds.data.label_readers import READERS, pack_colors, read_colors, read_ids, read_red_ids
from clouds.errors import UserError
from tests.utils.image_files import by_opencv, by_pillow, png

IDS = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)
PALETTE = (b"PLTE", bytes(range(12)))


def write(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "x.png"  # the suffix does not matter
    path.write_bytes(content)
    return str(path)


def palette_image() -> Image.Image:
    image = Image.fromarray(IDS, "P")
    image.putpalette([9, 9, 9, 0, 200, 0, 7, 7, 7, 200, 0, 0])
    return image


@pytest.mark.parametrize(
    "content",
    [
        png([b"\x18", b"\xe4"], 3, 2, 0),
        png([b"\x01\x20", b"\x32\x10"], 3, 4, 0),
        png([b"\x00\x01\x02", b"\x03\x02\x01"], 3, 8, 0, (b"tRNS", b"\0\1"), (b"sBIT", b"\4")),
        png([b"\0\0\0\1\0\2", b"\0\3\0\2\0\1"], 3, 16, 0),
        png([b"\x18", b"\xe4"], 3, 2, 3, PALETTE),
        png([b"\x01\x20", b"\x32\x10"], 3, 4, 3, PALETTE, (b"tRNS", b"\0\x80")),
        by_pillow(palette_image(), "PNG"),
        by_pillow(palette_image(), "GIF", optimize=False),
        by_pillow(palette_image(), "TIFF"),
        by_pillow(palette_image(), "TIFF", compression="tiff_lzw"),
        by_pillow(Image.fromarray(IDS), "BMP"),
        *(by_opencv(IDS.astype(dtype), ".tif") for dtype in (np.uint8, np.uint16, np.int16, np.int32)),
        by_pillow(Image.frombytes("I;16B", (3, 2), IDS.astype(">u2").tobytes()), "TIFF"),
    ],
    ids=[
        *("gray 2", "gray 4", "gray 8 with chunks", "gray 16", "palette 2", "palette 4 transparent", "palette 8"),
        *("GIF", "palette TIFF", "LZW TIFF", "BMP", "uint8", "uint16", "int16", "int32", "big-endian"),
    ],
)
def test_ids_are_read_as_they_were_written(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    np.testing.assert_array_equal(read_ids(path), IDS)
    np.testing.assert_array_equal(read_train_ids(path, 4), IDS)


@pytest.mark.parametrize(
    "content",
    [
        png([b"\x60", b"\x80"], 3, 1, 0),
        by_pillow(Image.fromarray(np.array([[0, 255, 255], [255, 0, 0]], np.uint8)).convert("1"), "TIFF"),
    ],
    ids=["PNG", "TIFF"],
)
def test_one_bit_gives_the_ids_0_and_1(tmp_path: Path, content: bytes) -> None:
    expected = [[0, 1, 1], [1, 0, 0]]
    path = write(tmp_path, content)
    assert read_train_ids(path, 2).tolist() == expected
    assert read_train_ids(path, 2).dtype == np.uint8
    assert LabelEncoding("ids", ((0, 1), (1, 0))).read(path).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_masks_of_0_and_255_are_read_where_255_is_a_class(tmp_path: Path) -> None:
    path = write(tmp_path, by_pillow(Image.fromarray(np.array([[0, 255]], np.uint8)), "PNG"))
    assert LabelEncoding("ids", ((0, 0), (255, 1))).read(path).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (by_pillow(Image.fromarray(IDS), "JPEG", quality=100), "is a JPEG file with a compression that may change"),
        (by_pillow(Image.fromarray(IDS), "JPEG2000"), "is a JPEG2000 file with a compression"),
        (by_pillow(Image.fromarray(IDS), "WEBP"), "is a WEBP file with a compression"),
        (by_pillow(Image.fromarray(IDS), "TIFF", compression="jpeg"), "is a TIFF file with a compression"),
        (b"P5\n3 2\n3\n" + IDS.tobytes(), "is a PPM file with a compression"),
    ],
    ids=["JPEG", "JPEG 2000", "WebP", "JPEG in TIFF", "PGM"],
)
@pytest.mark.parametrize("kind", ["ids", "colors", "red_ids"])
def test_lossy_formats_are_refused_whatever_the_suffix(tmp_path: Path, content: bytes, reason: str, kind: str) -> None:
    with pytest.raises(UserError, match=rf"^The label map .*x\.png {reason}"):
        READERS[kind](write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (by_opencv(IDS.astype(np.float32), ".tif"), "has floats, not ids"),
        (by_opencv(np.array([[1, -1]], np.int8), ".tif"), "has signed 8-bit values, of which Pillow reads -1 as 255"),
        (by_pillow(Image.fromarray(IDS), "TIFF", tiffinfo={262: 0}), r"is stored with inverted gray values"),
        (by_pillow(Image.fromarray(IDS).convert("LA"), "PNG"), "is a LA image, not a label map"),
        (
            by_pillow(Image.fromarray(IDS), "PNG", save_all=True, append_images=[Image.fromarray(IDS + 1)]),
            "has 2 frames",
        ),
    ],
    ids=["float", "int8", "inverted", "gray and alpha", "frames"],
)
def test_other_values_than_those_written_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_ids(write(tmp_path, content))


def test_negative_ids_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path, by_opencv(np.array([[1, -1]], np.int32), ".tif"))
    with pytest.raises(UserError, match="label id -1 on 1 pixels"):
        read_train_ids(path, 3)
    with pytest.raises(UserError, match=r"does not list \(-1 on 1 pixels\)"):
        LabelEncoding("ids", ((1, 0),)).read(path)


COLORS = np.array([[[9, 8, 7], [0, 128, 255]]], np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        by_pillow(Image.fromarray(COLORS), "PNG"),
        by_pillow(Image.fromarray(COLORS).convert("RGBA"), "PNG"),
        by_pillow(Image.fromarray(COLORS), "WEBP", lossless=True),
        by_pillow(Image.fromarray(COLORS), "WEBP", lossless=True, icc_profile=b"odd"),
        by_pillow(Image.fromarray(COLORS), "BMP"),
        by_pillow(Image.fromarray(COLORS), "TIFF"),
        png([b"\x40"], 2, 1, 3, (b"PLTE", COLORS.tobytes()), (b"tRNS", b"\0\x80")),
    ],
    ids=["RGB", "RGBA", "WebP", "WebP with a profile", "BMP", "TIFF", "transparent palette"],
)
def test_colors_are_read_as_they_were_written(tmp_path: Path, content: bytes) -> None:
    np.testing.assert_array_equal(read_colors(write(tmp_path, content)), pack_colors(COLORS))


def test_colors_of_16_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a RGB image of 16 bits, but the labels of its data set are colors"):
        read_colors(write(tmp_path, by_opencv(COLORS.astype(np.uint16), ".png")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("read", [read_ids, read_colors, read_red_ids])
def test_an_orientation_is_refused(tmp_path: Path, kind: str, read: object) -> None:
    image = Image.fromarray(COLORS if read is read_colors else IDS)
    with pytest.raises(
        UserError, match=r"^The label map .*x\.png has the EXIF orientation 3, so that it may not match"
    ):
        read(write(tmp_path, by_pillow(image, kind, 3)))
