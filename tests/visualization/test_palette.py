"""Colors of label maps and overlays."""

import numpy as np

from clouds.data.classes import CITYSCAPES_COLORS
from clouds.visualization.palette import colorize, overlay

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
