"""The sheet that compares label maps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.data.classes import CITYSCAPES_COLORS
from clouds.visualization.sheet import comparison_sheet


def test_sheet_shows_every_image_in_its_column_under_its_caption(tmp_path: Path) -> None:
    image = np.full((50, 100, 3), (10, 200, 30), dtype=np.uint8)
    truth, prediction = np.full((50, 100), 13, dtype=np.uint8), np.full((50, 100), 8, dtype=np.uint8)
    sheet = comparison_sheet(
        ("image", "truth", "prediction"),
        [("city", [image, truth, prediction]), ("city", [image, None, prediction]), ("night", [image, truth, truth])],
        title="A run",
        cell_width=200,
    )
    sheet.save(tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.mode == "RGB" and sheet.width == 3 * 200 + 2 * 8 + 2 * 24

    def area(color: tuple[int, ...], columns: slice) -> float:
        """Return the area with a color, in cells of 200 x 100 pixels."""
        return (pixels[:, columns] == color).all(axis=-1).sum() / (200 * 100)

    first, second, third = slice(24, 224), slice(232, 432), slice(440, 640)
    car, vegetation = CITYSCAPES_COLORS[13], CITYSCAPES_COLORS[8]
    assert area((10, 200, 30), first) == 3
    assert area(car, second) == pytest.approx(2, abs=0.02)  # and a swatch in the legend
    assert area(vegetation, third) == pytest.approx(2, abs=0.02)
    assert area(car, third) == pytest.approx(1, abs=0.02)
    for color in CITYSCAPES_COLORS:  # the legend has all of them
        assert (pixels == color).all(axis=-1).sum() >= 16 * 16


def test_sheet_takes_other_classes_sizes_and_no_rows() -> None:
    tall = np.zeros((80, 40), dtype=np.uint8)
    sheet = comparison_sheet(("a",), [("x", [tall])], classes=["cat,puss"], colors=[(9, 8, 7)], cell_width=100)
    assert ((np.asarray(sheet) == (9, 8, 7)).all(axis=-1)).sum() == 100 * 200 + 16 * 16
    assert comparison_sheet(("a", "b"), []).width == 2 * 400 + 8 + 48
    with pytest.raises(ValueError, match="row 'x' has 1 cells for 2 columns"):
        comparison_sheet(("a", "b"), [("x", [tall])])
