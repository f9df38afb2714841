"""The kinds of images that `Segmenter.predict` takes: files, URLs, Pillow's modes and frames, arrays."""

import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, ImageSequence

import clouds
from clouds.errors import UserError


def test_every_kind_of_image(model: clouds.Segmenter, images: list[Path], tmp_path: Path) -> None:
    path = images[0]
    expected = model.predict(path).labels
    opened = Image.open(path)
    pixels = np.asarray(opened)
    kinds = [
        str(path),
        PurePath(path),
        opened,
        opened.copy(),
        opened.convert("RGBA"),
        pixels,
        np.asfortranarray(pixels),
    ]
    for kind in kinds:
        result = model.predict(kind)
        assert isinstance(result, clouds.Segmentation)
        assert (result.labels == expected).all()
    for several in (kinds, tuple(kinds), iter(kinds), (kind for kind in kinds)):
        results = model.predict(several, batch_size=4)
        assert isinstance(results, list)
        assert len(results) == len(kinds)
        assert all((result.labels == expected).all() for result in results)
    assert model.predict([]) == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_modes_of_pillow_and_their_files(
    model: clouds.Segmenter, images: list[Path], tmp_path: Path, mode: str
) -> None:
    image = Image.open(images[0])
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    file = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LA") else "a.png")
    image.save(file)
    one, other, third = model.predict([image, file, Image.open(file)])
    assert (one.image == other.image).all()
    assert (one.image == third.image).all()
    assert (one.labels == other.labels).all()
    if mode == "L":
        assert (model.predict(np.asarray(image)).labels == one.labels).all()


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_the_frames_of_a_file_are_images(model: clouds.Segmenter, images: list[Path], kind: str) -> None:
    """Pillow has one object for all frames of a file."""
    first = Image.open(images[0]).convert("RGB")
    file = io.BytesIO()
    others = [first.transpose(Image.Transpose.ROTATE_180), ImageOps.invert(first)]
    first.save(file, kind, save_all=True, append_images=others)
    results = model.predict(ImageSequence.Iterator(Image.open(file)), batch_size=3)
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(file))]
    assert len(results) == len(frames) == 3
    assert all((result.image == frame).all() for result, frame in zip(results, frames, strict=True))
    assert not (results[0].image == results[1].image).all()


def test_an_orientation_is_applied(model: clouds.Segmenter, images: list[Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images[0]).save(tmp_path / "turned.png", exif=exif)
    one, other = model.predict([tmp_path / "turned.png", Image.open(tmp_path / "turned.png")])
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")))
    assert (one.image == upright).all()
    assert (other.image == upright).all()
    assert one.labels.shape == (101, 67)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("no/image.png", "There is no image no/image.png: correct its path"),
        (Path(), r"The image \. is a folder: give a list of its images"),
        ("", r"The image \. is a folder"),
        (b"bytes", "An image has the type bytes: give a path, a URL, a PIL image, or an array of uint8"),
        (bytearray(b"bytes"), "An image has the type bytearray: give a path"),
        (io.BytesIO(b"bytes"), "An image has the type BytesIO: give a path"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"images\[0\]: An image has the type Tensor: give a path"),
        (None, "An image has the type NoneType: give a path"),
        ([[1, 2], [3, 4]], r"images\[0\]: An image has the type list: give a path"),
        ([np.zeros((4, 4), np.uint8), "no/image.png"], r"images\[1\]: There is no image no/image\.png"),
        (np.zeros((4, 4, 3)), r"An image is an array of float64 with the shape 4 x 4 x 3: give"),
        (np.zeros((3, 4, 4), np.uint8), r"An image is an array of uint8 with the shape 3 x 4 x 4: give"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"An image is an array of uint8 with the shape 2 x 4 x 4 x 3: give"),
        (np.zeros((0, 4, 3), np.uint8), r"with the shape 0 x 4 x 3: give"),
        (np.uint8(3), r"An image has the type uint8: give"),
        (Image.new("RGB", (0, 4)), "An image of Pillow has no pixels, but the size 0 x 4"),
        (Image.new("F", (4, 4)), "The image of mode F has floats, which are not scaled to colors"),
        (Image.new("I", (4, 4)), "The image of mode I has 32-bit or signed integers"),
    ],
)
def test_what_is_no_image(model: clouds.Segmenter, image: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        model.predict(image)


@pytest.fixture(scope="module")
def server(images: list[Path]) -> Iterator[str]:
    content = {"/a.png": images[0].read_bytes(), "/page": b"<!doctype html><p>Log in</p>", "/cut.png":
               images[0].read_bytes()[:200]}  # fmt: skip

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_urls(
    model: clouds.Segmenter, images: list[Path], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    expected = model.predict(images[0])
    result = model.predict(f"{server}/a.png")
    assert (result.labels == expected.labels).all()
    [cached] = (tmp_path / "cache").glob("*_a.png")
    Image.open(images[1]).save(cached)
    assert model.predict(f"{server}/a.png").labels.shape == (101, 67), "read from the cache"
    for url, said in (
        (f"{server}/no.png", rf"Cannot download {server}/no\.png: the server answers 404"),
        (f"{server}/page", rf"{server}/page is a web page.* instead of an image: check the URL"),
        (f"{server}/cut.png", rf"The image {server}/cut\.png cannot be read"),
        ("http://127.0.0.1:9/a.png", r"Cannot download http://127\.0\.0\.1:9/a\.png \(.*\): check the URL"),
    ):
        with pytest.raises(UserError, match=said) as error:
            model.predict(url)
        assert len(str(error.value).splitlines()) == 1
