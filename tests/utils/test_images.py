"""Images are read whole or not at all."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from clouds.data.label_readers import read_colors, read_ids, read_red_ids
from clouds.errors import UserError
from clouds.utils.images import check_png_end, image_size, is_truncated_png, read_image
from tests.utils.image_files import by_opencv, by_pillow, png


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


RAMP = np.array([[0, 255, 256, 16384, 65535]], np.uint16)


def write(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "x.png"  # the suffix does not matter
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        by_opencv(RAMP, ".png"),
        by_opencv(np.dstack([RAMP] * 3), ".png"),
        by_opencv(np.dstack([RAMP] * 3 + [RAMP * 0]), ".png"),
        png([b"".join(int(v).to_bytes(2, "big") + b"\0\0" for v in RAMP[0])], 5, 16, 4),
        by_opencv(RAMP, ".tif"),
        by_opencv(np.dstack([RAMP] * 3), ".tif"),
        by_pillow(Image.fromarray(RAMP), "TIFF"),
        by_pillow(Image.frombytes("I;16B", (5, 1), RAMP.astype(">u2").tobytes()), "TIFF"),
    ],
    ids=["gray", "RGB", "RGBA", "gray and alpha", "gray TIFF", "RGB TIFF", "little-endian TIFF", "big-endian TIFF"],
)
def test_16_bits_are_divided_by_256(tmp_path: Path, content: bytes) -> None:
    assert np.asarray(read_image(write(tmp_path, content)))[0].tolist() == [[v] * 3 for v in (0, 0, 1, 64, 255)]


@pytest.mark.parametrize("largest", [0, 255, 4095, 16383])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_fewer_bits_in_16_are_refused_because_they_would_be_dark(
    tmp_path: Path, largest: int, suffix: str, channels: int
) -> None:
    pixels = np.linspace(0, largest, 12).astype(np.uint16).reshape(3, 4)
    if channels > 1:
        pixels = np.dstack([pixels] * 3 + [np.full_like(pixels, 65535)] * (channels - 3))
    path = write(tmp_path, by_opencv(pixels, suffix))
    with pytest.raises(
        UserError, match=r"x\.png has 16 bits per channel, but no value above 16383.*scale it to 8 bits"
    ):
        read_image(path)


def test_12_bits_with_the_chunk_that_says_so_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 bits per channel, but no value above 16383"):
        read_image(write(tmp_path, png([b"\x0f\xff\x01\x00"], 2, 16, 0, (b"sBIT", b"\x0c"))))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (by_opencv(np.full((3, 4), 70000, np.int32), ".tif"), "has 32-bit or signed integers, which are not scaled"),
        (by_opencv(np.full((3, 4), -5, np.int16), ".tif"), "has 32-bit or signed integers, which are not scaled"),
        (by_opencv(np.full((3, 4), 0.5, np.float32), ".tif"), "has floats, which are not scaled"),
        (by_opencv(np.full((3, 4, 3), 0.5, np.float32), ".tif"), "is damaged or no image of a supported kind"),
        (by_pillow(Image.new("LAB", (4, 3)), "TIFF"), "has pixels in the mode LAB, which are not scaled to colors"),
        (by_pillow(Image.new("RGB", (4, 3)), "ICO", sizes=[(4, 3)]), "is a ICO file: convert it to PNG"),
        (by_pillow(Image.new("RGB", (4, 3)), "EPS"), "is a PostScript document: export it as PNG"),
        *(
            (
                by_pillow(
                    Image.new("RGB", (4, 3)), kind, save_all=True, append_images=[Image.new("RGB", (4, 3), "red")]
                ),
                "has 2 frames or pages: save each one as a file of its own",
            )
            for kind in ("GIF", "PNG", "WEBP", "TIFF")
        ),
        (by_pillow(Image.new("RGB", (4, 3)), "TIFF", tiffinfo={50706: b"\x01\x04\0\0"}), "is a camera raw file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_rule_scales_or_selects_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=rf"^The image .*x\.png {reason}"):
        read_image(path)


def test_transparency_and_gamma_are_ignored(tmp_path: Path) -> None:
    palette = (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    content = png([b"\x40"], 2, 1, 3, (b"gAMA", bytes(4)), palette, (b"tRNS", b"\0\x80"))
    assert np.asarray(read_image(write(tmp_path, content)))[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    content = png([bytes([1, 2, 3, 0, 4, 5, 6, 255])], 2, 8, 6)
    assert np.asarray(read_image(write(tmp_path, content)))[0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_the_first_image_of_a_stereo_photograph_is_read(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 200, 0))
    path = write(tmp_path, by_pillow(first, "MPO", save_all=True, append_images=[second]))
    assert Image.open(path).format == "MPO"
    assert np.asarray(read_image(path))[0, 0, 0] > 190


def test_cmyk_photographs_keep_their_colors(tmp_path: Path) -> None:
    cmyk = Image.new("RGB", (8, 8), (250, 128, 10)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):  # Pillow writes JPEGs inverted, as Adobe does
        color = np.asarray(read_image(write(tmp_path, by_pillow(cmyk, kind))))[0, 0]
        np.testing.assert_allclose(color, (250, 128, 10), atol=3)


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    path = write(tmp_path, by_pillow(Image.fromarray(PIXELS), kind, orientation, **options))
    turned = {
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1),
        7: np.rot90(PIXELS, 2).transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }.get(orientation, PIXELS)
    upright = read_image(path)
    assert image_size(path) == upright.size == turned.shape[1::-1]
    if kind != "JPEG":
        np.testing.assert_array_equal(np.asarray(upright), turned)
    if orientation in range(2, 9):
        with pytest.raises(UserError, match=rf"EXIF orientation {orientation}, but its label map does not.*turn"):
            read_image(path, labelled=True)
    else:  # 0 and 9 mean nothing
        read_image(path, labelled=True)


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
    [PNG[:40], PNG[: len(PNG) // 2], encoded("JPEG")[:-30], encoded("JPEG")[:20], encoded("GIF")[:30]],
)
def test_damage_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=r"^The image .*x cannot be read \(.+\): copy or download it again\.$"):
        read_image(str(tmp_path / "x"))


@pytest.mark.parametrize("content", [encoded("TIFF")[:60], bytes(range(128, 256)), b"\0" * 50])
def test_other_bytes_are_damaged_or_unsupported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png is damaged or no image of a supported kind: copy or .* convert it to"):
        read_image(str(tmp_path / "x.png"))


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


def test_a_folder_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(UserError, match=r"\.png is not a file but a folder, pipe or device: move it away"):
            read_image(str(tmp_path / name))


@pytest.mark.parametrize("read", [read_image, read_ids])
def test_a_tiff_whose_second_page_is_damaged_is_refused(tmp_path: Path, read: Callable[[str], object]) -> None:
    content = bytearray(by_pillow(Image.fromarray(PIXELS), "TIFF"))
    count = int.from_bytes(content[8:10], "little")
    content[10 + 12 * count] = 1  # offset of the next page: the middle of this one; Pillow raises a TypeError
    with pytest.raises(UserError, match=r"cannot be read \(TypeError: Missing dimensions\): copy or download it again"):
        read(write(tmp_path, bytes(content)))


def test_a_huge_image_is_named_with_its_size(tmp_path: Path) -> None:
    header = PNG[12:16] + struct.pack(">II", 20000, 10000) + PNG[24:29]
    path = write(tmp_path, PNG[:12] + header + zlib.crc32(header).to_bytes(4, "big") + PNG[33:])
    with pytest.raises(
        UserError, match=r"has 200 megapixels; the limit is 179 megapixels: cut it into tiles or shrink"
    ):
        read_image(path)


SAMPLES = [
    PNG,
    by_opencv(RAMP, ".png"),
    by_opencv(RAMP, ".tif"),
    by_pillow(Image.fromarray(PIXELS), "PNG", 6),
    by_pillow(Image.fromarray(PIXELS), "TIFF", 6),
    by_pillow(Image.fromarray(PIXELS), "TIFF", compression="tiff_lzw"),
    *(encoded(kind) for kind in ("JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000")),
    *([encoded("AVIF")] if features.check("avif") else []),
]


@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_mutated_images_are_read_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, sample: bytes, data: st.DataObject
) -> None:
    content = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        # Replaces, inserts or removes bytes.
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    for read in (read_image, image_size, read_ids, read_colors, read_red_ids):
        try:
            read(str(path))
        except UserError as error:
            assert str(path) in str(error) and str(error).endswith(".")


@pytest.mark.filterwarnings("error")
def test_damaged_exif_data_do_not_matter(tmp_path: Path) -> None:
    """Pillow warns of them without the name of the file."""
    file = tmp_path / "a.jpg"
    cut = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"
    Image.new("RGB", (8, 4), (90, 90, 90)).save(file, exif=cut)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"), Image.open(file) as image:
        image.getexif()
    assert read_image(str(file)).size == image_size(str(file)) == (8, 4)
