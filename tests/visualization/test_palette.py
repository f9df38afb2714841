"""Colors of label maps and overlays."""

import numpy as np
import pytest

from clouds.d2 import MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS
from clouds.visualization.palette import colorize, colors_of, data_set_colors, overlay

LABELS = np.array([[0, 18, 255], [10, 13, 19]], dtype=np.uint8)
BLACK = (0, 0, 0)


def test_colorize_paints_the_palette_and_leaves_ignore_black() -> None:
    painted = colorize(LABELS)
    assert painted.dtype == np.uint8
    expected = [CITYSCAPES_COLORS[0], CITYSCAPES_COLORS[18], BLACK, CITYSCAPES_COLORS[10], CITYSCAPES_COLORS[13], BLACK]
    assert [tuple(pixel) for pixel in painted.reshape(-1, 3).tolist()] == expected
    assert colorize(np.array([[1]]), colors=[(1, 2, 3), (4, 5, 6)]).tolist() == [[[4, 5, 6]]]


def test_overlay_mixes_and_leaves_ignored_pixels_alone() -> None:
    image = np.full((2, 3, 3), 201, dtype=np.uint8)
    assert (overlay(image, LABELS, opacity=0) == image).all()
    full = overlay(image, LABELS, opacity=1)
    assert (full[0, :2] == colorize(LABELS)[0, :2]).all()
    assert (full[0, 2] == 201).all() and (full[1, 2] == 201).all()
    half = overlay(image, LABELS)[0, 0]
    assert np.abs(half - (np.array(CITYSCAPES_COLORS[0]) + 201) / 2).max() <= 0.5
    assert half.dtype == np.uint8


def test_colors_of_classes() -> None:
    assert colors_of(CITYSCAPES_CLASSES) == CITYSCAPES_COLORS
    assert colors_of(["unicorn", "truck", "tree"])[1:] == (CITYSCAPES_COLORS[14], CITYSCAPES_COLORS[8])
    colors = colors_of([f"thing {number}" for number in range(40)])
    assert all(0 <= value <= 255 for color in colors for value in color)
    distances = np.abs(np.array(colors)[:, None] - np.array(colors)).sum(axis=-1) + 999 * np.eye(40)
    assert distances.min() > 10
    assert colors_of([f"thing {number}" for number in range(20)]) == colors[:20]


def test_colors_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    colors = [(index, 0, 255) for index in range(3)]
    monkeypatch.setattr(MetadataCatalog, "get", lambda name: type("Metadata", (), {"stuff_colors": colors}))
    assert data_set_colors("mine", ["a", "b", "c"]) == tuple(colors)
    assert data_set_colors("mine", ["a", "b"]) == tuple(colors[:2])
    assert data_set_colors("mine", ["a", "b", "c", "road"]) == colors_of(["a", "b", "c", "road"])
    monkeypatch.undo()
    assert data_set_colors("not_registered", ["road", "car"]) == (CITYSCAPES_COLORS[0], CITYSCAPES_COLORS[13])


def test_overlay_of_a_large_image_is_computed_in_strips() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1100, 700, 3), np.uint8)
    labels = rng.integers(0, 25, (1100, 700), np.uint8)
    whole = overlay(image, labels)
    assert (overlay(image[600:], labels[600:]) == whole[600:]).all()
    blended = np.round(image + 0.5 * (colorize(labels) - image.astype(np.float32)))
    assert (whole == np.where((labels < 19)[..., None], blended, image)).all()
