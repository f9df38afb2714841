"""Examples of a data set: which images, their cells, and the classes in the legend."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clouds.errors import UserError
from clouds.visualization.examples import Look, Share, draw_sheet, percent, select, shrunk
from tests.data.conftest import save

CLASSES = ("road,street", "sky", "train")
COLORS = ((200, 40, 40), (40, 200, 40), (9, 9, 99))
LOOK = Look(CLASSES, COLORS, width=16)


def record(folder: Path, name: str = "a", size: tuple[int, int] = (8, 32), *, labels: bool = True) -> dict:
    """An image of (10, 20, 30) whose left half is road, whose right half is sky, and whose first row is ignored."""
    height, width = size
    found = {
        "image_id": name,
        "file_name": save(folder / f"{name}.png", Image.new("RGB", (width, height), (10, 20, 30))),
    }
    if labels:
        values = np.repeat((np.arange(width) >= width // 2).astype(np.uint8)[None], height, axis=0)
        values[0] = 255
        found["sem_seg_file_name"] = save(folder / f"{name}_labels.png", values)
    return found


def test_an_image_its_label_map_and_both_together(tmp_path: Path) -> None:
    example = LOOK.example(record(tmp_path))
    image, labels, overlaid = example.cells
    assert [cell.image.size for cell in example.cells] == [(16, 4)] * 3  # no wider than they are shown
    assert image.caption == "a, 32 x 8 pixels"
    assert labels.caption == "label map: road 43.8 %, sky 43.8 %, void 12.5 %"
    pixels = np.asarray(labels.image)
    assert (pixels[1:, :8] == COLORS[0]).all() and (pixels[1:, 8:] == COLORS[1]).all()
    assert (pixels[0, 0] < COLORS[0]).all()  # half of it is void, which is black
    assert (np.asarray(overlaid.image)[2, 0] == (105, 30, 35)).all()
    assert example.counts is not None
    assert LOOK.shares(example.counts)[1:] == [Share("sky", COLORS[1], 0.4375), Share("void", (0, 0, 0), 0.125)]
    assert LOOK.absent(example.counts) == ["train"]


def test_an_image_without_labels(tmp_path: Path) -> None:
    example = LOOK.example(record(tmp_path, labels=False))
    assert (len(example.cells), example.counts) == (1, None)
    sheet = draw_sheet("set", [example], LOOK)
    assert sheet.height == 2 * 24 + 34 + 2 + 46  # no legend


def test_thin_objects_stay_visible_in_a_large_label_map() -> None:
    labels = np.zeros((64, 4096), np.uint8)
    labels[:, ::8] = 1  # a pole in each 8 pixels, 32 for a pixel of the drawing
    drawn = np.asarray(LOOK.label_cell(labels, "").image)
    assert drawn.shape == (1, 16, 3)
    assert len(np.unique(drawn[..., 0])) <= 3


def test_views_are_those_of_the_mapper(tmp_path: Path) -> None:
    seen = []

    def mapper(given: dict, rng: np.random.Generator) -> dict:
        seen.append(int(rng.integers(1 << 30)))
        image = torch.full((3, 4, 6), len(seen), dtype=torch.uint8)
        return {**given, "image": image, "image_clean": image + 100, "sem_seg": torch.ones(4, 6, dtype=torch.uint8)}

    look = Look(CLASSES, COLORS, width=16, mapper=mapper, draws=2)
    labelled = look.example(record(tmp_path)).cells[3:]
    assert [np.asarray(cell.image)[0, 0].tolist() for cell in labelled[::3]] == [[1, 1, 1], [2, 2, 2]]
    assert labelled[0].caption == "draw 1, 6 x 4 pixels, as the network sees it"
    assert (np.asarray(labelled[1].image) == COLORS[1]).all()
    generated = look.example({**record(tmp_path, "b", labels=False), "is_generated": True}).cells[1:]
    assert [np.asarray(cell.image)[0, 0, 0].item() for cell in generated] == [103, 3, 104, 4]
    assert "teacher" in generated[0].caption and "network" in generated[1].caption
    assert len(set(seen)) == 4
    look.example(record(tmp_path))
    assert seen[4:] == seen[:2]  # whatever else is shown


def test_select() -> None:
    records = [{"image_id": f"night/im_{number}", "file_name": f"/data/{number}.jpg"} for number in range(30)]
    chosen = select(records, 5, seed=1)
    assert chosen == select(records, 5, seed=1) != select(records, 5, seed=2)
    assert chosen == sorted(chosen, key=records.index)
    assert select(records, 99, seed=1) == records
    assert select(records, 1, 0, ["night/im_7", "im_3", "21"]) == [records[7], records[3], records[21]]
    with pytest.raises(
        UserError, match=r"^--names has im_33, which no image of the data set is called: the nearest is im_3"
    ):
        select(records, 1, 0, ["im_33"])
    twice = [*records, {"image_id": "day/im_7", "file_name": "/other/x.jpg"}]
    with pytest.raises(
        UserError, match=r"im_7, which 2 images are called \(night/im_7, day/im_7, \.\.\.\): give the whole"
    ):
        select(twice, 1, 0, ["im_7"])


def test_a_sheet_has_a_legend_of_what_occurs(tmp_path: Path) -> None:
    look = Look(CLASSES, COLORS, width=200)
    pixels = np.asarray(draw_sheet("set", [look.example(record(tmp_path, name)) for name in "abc"], look))
    assert (pixels[-60:] == COLORS[1]).all(axis=-1).sum() == 16 * 16
    assert not (pixels == COLORS[2]).all(axis=-1).any()


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "< 0.1 %"), (0.0004, "< 0.1 %"), (0.0005, "0.1 %"), (1.0, "100.0 %")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_small_images_are_not_enlarged() -> None:
    image = Image.new("RGB", (4, 400))
    assert shrunk(image, 16) is image
    assert shrunk(Image.new("RGB", (4000, 1)), 16).size == (16, 1)
