"""`Segmentation`: area, scores, confidence, entropy, overlay, and the saved file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from clouds.api.results import Segmentation
from clouds.errors import UserError, WriteError

CLASSES = ("road,street", "sky", "a car")
COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
LABELS = np.array([[0, 0, 1, 2], [0, 0, 0, 2]], np.uint8)


def result(shares: np.ndarray | None = None, labels: np.ndarray = LABELS) -> Segmentation:
    image = np.full((*labels.shape, 3), 100, np.uint8)
    return Segmentation(labels, CLASSES, COLORS, image, shares=shares)


def test_area() -> None:
    assert result().area == {"road": 5 / 8, "sky": 1 / 8, "a car": 2 / 8}
    assert result(labels=np.ones((3, 3), np.uint8)).area == {"road": 0, "sky": 1, "a car": 0}


def test_repr_names_the_largest_classes() -> None:
    assert repr(result()) == "Segmentation(2 x 4, 3 classes: road 62.5%, a car 25.0%, sky 12.5%)"
    shares = np.full((3, 2, 4), 1 / 3, np.float32)
    assert repr(result(shares, np.ones((2, 4), np.uint8))) == "Segmentation(2 x 4, 3 classes: sky 100.0%, with scores)"
    many = Segmentation(np.arange(8, dtype=np.uint8)[None], tuple("abcdefgh"), COLORS, np.zeros((1, 8, 3), np.uint8))
    assert repr(many) == "Segmentation(1 x 8, 8 classes: a 12.5%, b 12.5%, c 12.5%, d 12.5%, e 12.5%, ...)"


def test_confidence_and_entropy() -> None:
    shares = np.zeros((3, 1, 3), np.float32)
    shares[:, 0, 0] = 1 / 3
    shares[1, 0, 1] = 1
    shares[:, 0, 2] = 0.5, 0.25, 0.25
    each = result(shares, np.array([[0, 1, 0]], np.uint8))
    np.testing.assert_allclose(each.confidence, [[1 / 3, 1, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(each.entropy, [[1, 0, 1.5 * np.log(2) / np.log(3)]], rtol=1e-6)
    assert each.entropy.dtype == each.confidence.dtype == each.scores.dtype == np.float32


@given(arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(0, 1, width=32)))
def test_entropy_is_within_its_range(raw: np.ndarray) -> None:
    shares = (raw + 1e-3) / (raw + 1e-3).sum(axis=0)
    entropy = result(shares).entropy
    assert entropy.shape == raw.shape[1:]
    assert (entropy >= 0).all()
    assert (entropy <= 1).all()


def test_without_scores_it_says_how_to_have_them() -> None:
    for name in ("scores", "confidence", "entropy"):
        with pytest.raises(UserError, match=r"This result holds no scores.*predict with scores=True"):
            getattr(result(), name)


def test_overlay() -> None:
    assert np.asarray(result().overlay(0)).tolist() == np.full((2, 4, 3), 100).tolist()
    assert np.asarray(result().overlay(1)).tolist() == np.array(COLORS)[LABELS].tolist()
    assert np.asarray(result().overlay())[0, 0].tolist() == [150, 50, 50]
    with pytest.raises(UserError, match="opacity is 50: give a number from 0"):
        result().overlay(50)


def test_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result().save("~/new/labels.png")
    saved = Image.open(tmp_path / "new" / "labels.png")
    assert saved.mode == "L"
    assert np.asarray(saved).tolist() == LABELS.tolist()
    with pytest.raises(UserError, match=r"others change its values: .*labels\.jpg must end in \.png"):
        result().save(tmp_path / "labels.jpg")
    assert not (tmp_path / "labels.jpg").exists()


def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file cannot be written \(another file has its name\): "):
        result().save(tmp_path / "file" / "labels.png")
    with pytest.raises(WriteError, match=r"/proc/labels\.png cannot be written \(.*\): "):
        result().save("/proc/labels.png")
