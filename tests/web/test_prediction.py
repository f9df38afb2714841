"""Predictions of uploaded files, by a network that is not trained: it labels pixels by their brightness."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.api import Segmentation
from clouds.errors import UserError
from clouds.utils import signals
from clouds.utils.frames import VideoWriter, video_frames
from clouds.web import prediction
from clouds.web.prediction import Limits, Predictions

COLORS = ((255, 0, 0), (0, 0, 255))


class Brightness:
    """Network with the classes "dark" and "bright"."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def predict(
        self, image: Image.Image, *, classes: Sequence[str] | None = None, scores: bool = False
    ) -> Segmentation:
        self.sizes.append(image.size)
        pixels = np.asarray(image)
        labels = (pixels[..., 0] > 127).astype(np.uint8)
        shares = np.stack([1 - labels, labels]).astype(np.float32) if scores else None
        return Segmentation(labels, tuple(classes or ("dark", "bright")), COLORS, pixels, shares=shares)


@pytest.fixture
def model() -> Brightness:
    return Brightness()


@pytest.fixture
def predictions(model: Brightness) -> Predictions:
    return Predictions(model, Limits(seconds=2, frames=4))  # type: ignore[arg-type]


@pytest.fixture
def halves(tmp_path: Path) -> str:
    """An image whose right half is white."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "halves.png")
    return str(tmp_path / "halves.png")


def write_video(path: Path, frames: int, rate: int = 10) -> str:
    with path.open("w+b") as file, VideoWriter(file) as video:
        for number in range(frames):
            video.write(np.full((32, 64, 3), 200, np.uint8), number / rate)
    return str(path)


def test_image(predictions: Predictions, halves: str) -> None:
    shown = predictions.image(halves, "halves.png", None)
    assert shown.result.area == {"dark": 0.5, "bright": 0.5}
    assert shown.result.shares is None  # the page keeps the result, and scores take much memory
    yellow, dark = [253, 231, 37], [68, 1, 84]
    assert np.unique(shown.confidence.reshape(-1, 3), axis=0).tolist() == [yellow]
    assert np.unique(shown.entropy.reshape(-1, 3), axis=0).tolist() == [dark]
    assert predictions.image(halves, "halves.png", ["a", "b"]).result.classes == ("a", "b")


def test_large_image(predictions: Predictions, model: Brightness, halves: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "IMAGE_PIXELS", 200)
    predictions.image(halves, "halves.png", None)
    assert model.sizes == [(20, 10)]


def test_no_image(predictions: Predictions, tmp_path: Path) -> None:
    file = tmp_path / "a81bc" / "notes.png"
    file.parent.mkdir()
    file.write_text("no image")
    with pytest.raises(UserError, match=r"^The image notes\.png is ") as raised:
        predictions.image(str(file), "notes.png", None)
    assert "a81bc" not in str(raised.value)
    with pytest.raises(UserError, match=r"^The video notes\.png "):
        predictions.video(str(file), "notes.png", None, 0.5, tmp_path / "out.mp4", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["a81bc"]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (3, [0, 0.1, 0.2]),  # no more than four: all
        (9, [0, 0.5]),  # one in each fourth part of two seconds
        (40, [0, 0.5, 1, 1.5]),  # two of four seconds
    ],
)
def test_frames_of_a_video(predictions: Predictions, tmp_path: Path, frames: int, expected: list[float]) -> None:
    file, target, reported = write_video(tmp_path / "in.mp4", frames), tmp_path / "out.mp4", list[float]()
    result, number = predictions.video(file, "in.mp4", None, 1.0, target, reported.append)
    assert number == len(expected) == len(reported)
    assert reported == sorted(reported)
    shown = list(video_frames(str(target)))
    assert [round(frame.time, 2) for frame in shown] == expected
    red, _, blue = np.asarray(shown[0].image).mean(axis=(0, 1))
    assert red < 20  # the color of "bright"
    assert blue > 230
    assert result.area["bright"] == 1


def test_a_video_ends_with_the_server(
    predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_requested", "SIGTERM")
    with pytest.raises(UserError, match="The server is being stopped"):
        predictions.video(
            write_video(tmp_path / "in.mp4", 3), "in.mp4", None, 0.5, tmp_path / "out.mp4", lambda _: None
        )
    assert not (tmp_path / "out.mp4").exists()
    predictions.wait()  # nothing holds the lock
