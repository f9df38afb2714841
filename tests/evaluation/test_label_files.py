from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.data.classes import CITYSCAPES_COLORS
from clouds.data.datasets.catalog import pair_by_stem
from clouds.data.datasets.pairing import pair_files
from clouds.data.datasets.patterns import FilePattern
from clouds.data.encoding import read_train_ids
from clouds.evaluation.label_files import LabelWriter, file_stem


def test_written_labels_are_found_and_read_as_labels(tmp_path: Path) -> None:
    images = tmp_path / "leftImg8bit" / "lindau"
    images.mkdir(parents=True)
    (images / "lindau_000000_000019_leftImg8bit.png").touch()
    labels = np.arange(19, dtype=np.uint8)[None].repeat(2, axis=0)
    LabelWriter(tmp_path / "labels", CITYSCAPES_COLORS).write("lindau_000000_000019", labels)
    (record,) = pair_by_stem("mine", images, "_leftImg8bit.png", tmp_path / "labels", "_labelTrainIds.png")
    assert (read_train_ids(record["sem_seg_file_name"], 19) == labels).all()
    assert Image.open(record["sem_seg_file_name"]).mode == "L"
    colors = Image.open(tmp_path / "labels" / "lindau_000000_000019_color.png").convert("RGB")
    assert [tuple(color) for color in np.asarray(colors)[0]] == list(CITYSCAPES_COLORS)
    assert {path.suffix for path in (tmp_path / "labels").iterdir()} == {".png"}


def test_a_killed_process_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LabelWriter(tmp_path, CITYSCAPES_COLORS)
    writer.write("a", np.zeros((4, 4), np.uint8))

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.write("a", np.ones((4, 4), np.uint8))
    assert not read_train_ids(str(tmp_path / "a_labelTrainIds.png"), 19).any()


LONG = "x" * 400
ODD = [
    LONG,
    LONG + "y",
    f"{LONG}/{LONG}",
    "ü" * 90,
    "a.",
    "a..",
    "A",
    "a~",
    "%~",
    "\udcfc",
    "a",
    "a/b",
    "a%2Fb",
    "a//b",
    "/a",
    "..",
    "../a",
    "a/../a",
    ".",
    "",
    "%",
    "a.b",
    "ü ?*:",
    "a\\b",
    "a/",
    "%2E",
]


@given(st.lists(st.one_of(st.sampled_from(ODD), st.text("a./%\\ \x00ü", max_size=6)), min_size=2, max_size=8))
def test_every_image_has_a_file_of_its_own_inside_the_folder(ids: list[str]) -> None:
    names = {image_id: file_stem(image_id) for image_id in ids}
    assert len(set(names.values())) == len(set(ids))
    for name in names.values():
        assert not name.startswith("/") and "\x00" not in name and "\\" not in name
        assert not {"", ".", ".."} & set(name.split("/"))
        assert max(len(part) for part in name.split("/")) <= 200
        assert name.isascii()


@pytest.mark.parametrize("image_id", ODD)
def test_label_files_of_any_id_are_written_inside_the_folder(image_id: str, tmp_path: Path) -> None:
    LabelWriter(tmp_path / "labels", CITYSCAPES_COLORS).write(image_id, np.zeros((2, 2), np.uint8))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(path.resolve().is_relative_to(tmp_path / "labels") for path in files)


def test_label_files_of_sequences_are_read_as_a_set(tmp_path: Path) -> None:
    writer = LabelWriter(tmp_path / "labels", CITYSCAPES_COLORS)
    for number, image_id in enumerate(("Scene01/clone/00001", "Scene02/clone/00001")):
        writer.write(image_id, np.full((2, 2), number, np.uint8))
        (tmp_path / "images" / image_id).parent.mkdir(parents=True)
        (tmp_path / "images" / f"{image_id}.jpg").touch()
    images = FilePattern.parse(tmp_path, "images/**/*.jpg")
    records = pair_files("mine", images, FilePattern.parse(tmp_path, "labels/**/*_labelTrainIds.png"))
    assert [record["image_id"] for record in records] == ["Scene01/clone/00001", "Scene02/clone/00001"]
    assert [read_train_ids(record["sem_seg_file_name"], 19).max() for record in records] == [0, 1]


def test_a_folder_is_not_called_as_a_file_of_another_image(tmp_path: Path) -> None:
    writer = LabelWriter(tmp_path, CITYSCAPES_COLORS)
    ids = ("x", "x_color.png/y", "x_labelTrainIds.png/y", "x_color%2Epng/y", "a.png_color.png")
    for image_id in ids:
        writer.write(image_id, np.zeros((2, 2), np.uint8))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2 * len(ids)


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("GOPR0356_frame_000324", "frankfurt/0001", "a b-c.d (1)"):
        assert file_stem(name) == name
