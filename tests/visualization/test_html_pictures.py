import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.data.classes import CITYSCAPES_COLORS
from clouds.errors import UserError
from clouds.visualization.html import Html
from clouds.visualization.html_pictures import color_key, gallery, picture, picture_grid
from clouds.visualization.palette import colorize
from tests.visualization.test_html_markup import parse


def embedded(shown: Html) -> tuple[str, bytes]:
    """Kind and data of a picture."""
    kind, data = parse(shown).one("img").attributes["src"].removeprefix("data:image/").split(";base64,")
    return kind, base64.b64decode(data, validate=True)


def decoded(shown: Html) -> Image.Image:
    kind, data = embedded(shown)
    image = Image.open(io.BytesIO(data))
    assert image.format == kind.upper()
    return image.convert("RGB")


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, with thousands of colours."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // width, 255 * y // height, 255 * (x + y) // (width + height)], axis=-1).astype(np.uint8)


@given(seed=st.integers(0, 99), colors=st.integers(1, 256), size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_few_colours_are_kept_exactly(seed: int, colors: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (colors, 3), dtype=np.uint8)[rng.integers(0, colors, size)]
    shown = picture(pixels, "a map", 1)  # narrower than it is: maps are not made smaller
    assert embedded(shown)[0] == "png"
    assert (np.asarray(decoded(shown)) == pixels).all()


def test_a_palette_holds_256_colours() -> None:
    pixels = np.zeros((1, 257, 3), np.uint8)
    pixels[0, :256, 0] = range(256)
    assert embedded(picture(pixels, "256 colours", 300))[0] == "png"
    assert (np.asarray(decoded(picture(pixels, "256 colours", 300))) == pixels).all()
    pixels[0, 256] = 1
    assert embedded(picture(pixels, "257 colours", 300))[0] == "jpeg"


def test_photos_are_small_and_nearly_the_same() -> None:
    pixels = photo(100, 200)
    shown = picture(pixels, "a photo", 100)
    assert embedded(shown)[0] == "jpeg"
    found = np.asarray(decoded(shown))
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() < 3
    assert len(embedded(shown)[1]) < pixels.nbytes / 10
    assert decoded(picture(pixels, "a photo", 60)).size == (120, 60), "two pixels for one of the page"
    assert decoded(picture(pixels, "a photo", 999)).size == (200, 100), "never larger"


def test_size_and_words() -> None:
    tag = parse(picture(photo(50, 100), "a street", 300)).one("img")
    assert (tag.attributes["alt"], tag.attributes["width"], tag.attributes["height"]) == ("a street", "300", "150")
    assert parse(picture(np.zeros((1, 900, 3), np.uint8), "", 300)).one("img").attributes["height"] == "1"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "wrongly-named.txt"])
def test_png_and_jpeg_files_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = "JPEG" if name == "a.jpg" else "PNG"
    Image.fromarray(photo(40, 80)).save(path, kind)
    shown = picture(path, "a file", 20)
    assert embedded(shown) == (kind.lower(), path.read_bytes())
    assert parse(shown).one("img").attributes["height"] == "10"


def test_other_files_are_encoded(tmp_path: Path) -> None:
    pixels = colorize(np.arange(20, dtype=np.uint8).reshape(4, 5))
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    assert (np.asarray(decoded(picture(tmp_path / "a.bmp", "a map", 20))) == pixels).all()


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The picture .*none.png, which the report shows, does not exist"):
        picture(tmp_path / "none.png", "x", 10)
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    with pytest.raises(UserError, match=r"half\.png cannot be read"):
        picture(tmp_path / "half.png", "x", 10)
    for shape, kind in (((3, 3), np.uint8), ((3, 3, 3), np.float64), ((3, 3, 4), np.uint8), ((0, 3, 3), np.uint8)):
        with pytest.raises(ValueError, match="'x' is an array"):
            picture(np.zeros(shape, kind), "x", 10)


def tile(value: int) -> Html:
    return picture(np.full((2, 2, 3), value, np.uint8), f"tile {value}", 50)


def test_grid_has_every_picture_in_its_row_and_column() -> None:
    root = parse(picture_grid(["image", "truth"], [("city", [tile(1), tile(2)]), ("", [None, tile(3)])], caption="All"))
    assert root.all("figcaption")[0].text == "All"
    assert [th.text for th in root.one("thead").all("th")] == ["image", "truth"]
    city, unnamed = root.all("tbody")
    assert [th.text for th in city.all("th")] == ["city"] and unnamed.all("th") == []
    cells = [
        [[image.attributes["alt"] for image in cell.all("img")] for cell in body.all("td")] for body in (city, unnamed)
    ]
    assert cells == [[["tile 1"], ["tile 2"]], [[], ["tile 3"]]]
    assert [caption.text for caption in unnamed.all("figcaption")] == ["truth"], "for the small screen"
    assert picture_grid(["image"], []) == ""
    with pytest.raises(ValueError, match="row 'city' has 1 pictures for 2 columns"):
        picture_grid(["image", "truth"], [("city", [tile(1)])])


def test_gallery_pairs_pictures_with_captions() -> None:
    root = parse(gallery([(tile(1), "a street"), (tile(2), "")], caption="Generated"))
    first, second = root.one("ul").all("li")
    assert (first.one("img").attributes["alt"], first.one("figcaption").text) == ("tile 1", "a street")
    assert second.one("img").attributes["alt"] == "tile 2" and second.all("figcaption") == []
    assert root.all("figcaption")[0].text == "Generated"
    assert gallery([]) == ""


def test_key_has_each_class_with_its_colour() -> None:
    entries = parse(color_key()).all("li")
    assert len(entries) == 19 and entries[13].text == "car"
    assert [tuple(bytes.fromhex(e.one("rect").attributes["fill"][1:])) for e in entries] == list(CITYSCAPES_COLORS)
    assert [e.text for e in parse(color_key(["cat,puss"], [(1, 2, 3)])).all("li")] == ["cat"]
    assert color_key([], []) == ""
