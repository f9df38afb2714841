"""Images are read whole or not at all."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.errors import UserError
from clouds.utils.images import check_png_end, image_size, is_truncated_png, read_image


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


PNG = encoded("PNG")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    kind = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (7, 5)).save(tmp_path / f"x.{kind}")
    image = read_image(str(tmp_path / f"x.{kind}"))
    assert (image.mode, image.size) == ("RGB", (7, 5))
    assert image_size(str(tmp_path / f"x.{kind}")) == (7, 5)


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(read_image(str(tmp_path / "x.png")))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: a quarter clockwise is upright
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(str(tmp_path / "phone.png"))), np.rot90(pixels, -1))


def test_pixels_are_kept_by_the_conversion(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    palette, gray = image.convert("P", palette=Image.Palette.ADAPTIVE), image.convert("L")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    for other, expected in (
        (gray, np.asarray(gray)[..., None].repeat(3, axis=2)),
        (deep, np.asarray(gray)[..., None].repeat(3, axis=2)),
        (palette, np.asarray(palette.convert("RGB"))),
        (image.convert("RGBA"), pixels),
    ):
        other.save(tmp_path / "x.png")
        np.testing.assert_array_equal(np.asarray(read_image(str(tmp_path / "x.png"))), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_image_is_not_read(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"street.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(
        UserError, match=r"^The image .*street.* cannot be read \([^\n]+\): copy or download it again\.$"
    ):
        read_image(str(path))


@given(length=st.integers(0, len(PNG) - 1))
def test_a_png_cut_anywhere_is_truncated(length: int) -> None:
    assert is_truncated_png(PNG[:length]) == (length >= 4)  # less is no PNG at all
    assert not is_truncated_png(PNG)
    assert not is_truncated_png(PNG + bytes(100))


@pytest.mark.parametrize("cut", [1, 12, 20])
def test_the_end_of_a_png_is_checked_in_the_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(PNG)
    check_png_end(str(path))
    path.write_bytes(PNG[:-cut])
    with pytest.raises(UserError, match=r"^The label map .*x\.png cannot be read \(its end is missing\): copy"):
        check_png_end(str(path), "label map")
    (tmp_path / "x.jpg").write_bytes(encoded("JPEG")[:-cut])
    check_png_end(str(tmp_path / "x.jpg"))


@pytest.mark.parametrize(
    "content",
    [b"", b"text", PNG[:40], PNG[: len(PNG) // 2], encoded("JPEG")[:-30], encoded("TIFF")[:60], encoded("GIF")[:30]],
)
def test_damage_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=r"^The image .*x cannot be read \(.+\): copy or download it again\.$"):
        read_image(str(tmp_path / "x"))


def test_a_broken_checksum_is_damage(tmp_path: Path) -> None:
    assert zlib.crc32(PNG[12:29]).to_bytes(4, "big") == PNG[29:33]  # of the header chunk
    (tmp_path / "x.png").write_bytes(PNG[:29] + bytes(4) + PNG[33:])
    with pytest.raises(UserError, match="cannot be read"):
        read_image(str(tmp_path / "x.png"))


def test_missing_and_forbidden_files(tmp_path: Path) -> None:
    for read in (read_image, image_size, check_png_end):
        with pytest.raises(UserError, match=r"^The image .*x\.png does not exist: it was moved or removed"):
            read(str(tmp_path / "x.png"))
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    (tmp_path / "x.png").write_bytes(PNG)
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(UserError, match="may not be read: see the permissions"):
        read_image(str(tmp_path / "x.png"))
