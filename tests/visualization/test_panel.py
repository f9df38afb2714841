"""The panel of pseudo-labels."""

import numpy as np
import pytest

from clouds.data.classes import CITYSCAPES_COLORS
from clouds.visualization.panel import PanelRow, pseudo_label_panel, with_points


def filled(value: int, size: tuple[int, int] = (60, 120)) -> np.ndarray:
    return np.full(size, value, dtype=np.uint8)


def row(truth: np.ndarray | None = None) -> PanelRow:
    image = np.full((60, 120, 3), (10, 200, 30), dtype=np.uint8)
    return PanelRow(image, filled(13), np.array([[20.0, 30.0], [100.0, 10.0]], dtype=np.float32), filled(8), truth)


def area(sheet: np.ndarray, color: tuple[int, ...], column: int) -> float:
    """Return the area with a color in a column of the sheet, in cells of 120 x 60 pixels."""
    left = 24 + column * (120 + 8)
    return (sheet[:, left : left + 120] == color).all(axis=-1).sum() / (60 * 120)


@pytest.mark.parametrize("points", [[], [(0, 0)], [(5, 9), (39, 2)]])
@pytest.mark.parametrize("scale", [1, 3])
def test_points_are_x_and_y(points: list[tuple[int, int]], scale: int) -> None:
    image = np.full((10, 40, 3), 100, dtype=np.uint8)
    drawn = with_points(image, np.array(points, dtype=np.float32).reshape(-1, 2), 40 * scale)
    assert drawn.shape == (10 * scale, 40 * scale, 3)
    assert (image == 100).all(), "what is given is left alone"
    assert all((drawn[y * scale + scale // 2, x * scale + scale // 2] == 255).all() for x, y in points)
    assert (drawn[5 * scale, 20 * scale] == 100).all()
    assert (drawn != 100).any() == bool(points)


def test_columns() -> None:
    car, vegetation, sky = (CITYSCAPES_COLORS[k] for k in (13, 8, 10))
    sheet = np.asarray(pseudo_label_panel([row()], cell_width=120))
    assert sheet.shape[1] == 3 * 120 + 2 * 8 + 2 * 24
    assert area(sheet, (10, 200, 30), 0) == 1
    assert 0.98 < area(sheet, car, 1) < 1 + 16 * 16 / 7200, "with two dots on it"
    assert area(sheet, (255, 255, 255), 1) > 0
    assert 1 <= area(sheet, vegetation, 2) < 1.1

    known = np.asarray(pseudo_label_panel([row(), row(filled(10))], title="iteration 7", cell_width=120))
    assert known.shape[1] == 4 * 120 + 3 * 8 + 2 * 24
    assert 1 <= area(known, sky, 3) < 1.1
    assert area(known, (10, 200, 30), 0) == 2
