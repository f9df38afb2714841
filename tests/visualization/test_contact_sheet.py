"""A grid of images with captions."""

import numpy as np
import pytest
from PIL import Image

from clouds.visualization.contact_sheet import contact_sheet


def filled(width: int, height: int, color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def test_images_stand_in_rows_above_their_captions() -> None:
    red, blue = filled(80, 40, (250, 0, 0)), filled(20, 10, (0, 0, 250))
    sheet = np.asarray(contact_sheet([red, blue, red], ["one", "", "three"], title="set", columns=2, cell_width=40))
    assert sheet.shape == (2 * 24 + 34 + 2 * (20 + 46), 2 * 24 + 2 * 50 - 10, 3)
    assert (sheet[58:78, 24:64] == (250, 0, 0)).all()  # shrunk to the column
    assert (sheet[68:78, 74:94] == (0, 0, 250)).all()  # never enlarged, on the line of its row
    assert (sheet[58:68, 74:94] == 255).all()
    assert (sheet[124:144, 24:64] == (250, 0, 0)).all()
    caption = sheet[78:124]
    assert (caption[:, 24:64] < 128).any()
    assert (caption[:, 74:114] == 255).all()


def test_long_captions_end_in_an_ellipsis() -> None:
    image = filled(200, 20, (9, 9, 9))
    two = contact_sheet([image], ["word " * 12], title="", cell_width=200)
    more = contact_sheet([image], ["word " * 200], title="", cell_width=200)
    assert two.size == more.size
    assert np.asarray(two).tobytes() != np.asarray(more).tobytes()
    assert (np.asarray(more)[:, -24:] == 255).all()  # nothing in the margin


@pytest.mark.parametrize("captions", [[], ["a", "b"]])
def test_a_caption_each(captions: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(captions)} captions"):
        contact_sheet([filled(4, 4, (0, 0, 0))] * 3, captions, title="")
