"""Hidden files are not data, wherever folders are listed."""

import os
from pathlib import Path

import pytest

from clouds.errors import UserError
from clouds.generation.statistics import report
from clouds.utils.folders import image_files, is_hidden
from clouds.utils.hashing import model_digest
from clouds.utils.sources import find_sources
from tests.data.conftest import save, smooth_image

HIDDEN = ["._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", ".x.jpg"]


@pytest.mark.parametrize("name", HIDDEN)
def test_names_that_programs_leave_behind(name: str) -> None:
    assert is_hidden(name.partition("/")[0])


@pytest.mark.parametrize("name", ["a.png", "_a.png", "a", "thumbs.png", "a.DS_Store"])
def test_other_names(name: str) -> None:
    assert not is_hidden(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/1.PNG", "a.jpg", *(name for name in HIDDEN if name.endswith((".png", ".jpg")))):
        save(tmp_path / "images" / name, smooth_image(0))
    (tmp_path / "images/Thumbs.db").write_bytes(b"x")
    (tmp_path / "images/c.png").mkdir()
    return tmp_path / "images"


def test_images_of_a_folder(folder: Path) -> None:
    assert image_files(folder) == [folder / "a.jpg", folder / "b/1.PNG"]
    assert image_files(folder / "none") == []


def test_a_folder_that_cannot_be_listed_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"The folder .*/images cannot be listed \(Permission denied\)"):
        image_files(folder)


def test_predict_names_images_whose_results_would_have_no_name(tmp_path: Path) -> None:
    for length in (240, 241):
        save(tmp_path / str(length) / f"{'x' * length}.jpg", smooth_image(0))
    assert len(find_sources([str(tmp_path / "240")], tmp_path / "out").found) == 1
    with pytest.raises(UserError, match="is too long for its results: give it at most 240 bytes"):
        find_sources([str(tmp_path / "241")], tmp_path / "out")


def test_predict_leaves_hidden_files_out(folder: Path, tmp_path: Path) -> None:
    def found(path: Path) -> set[str]:
        return {each.name for each in find_sources([str(path)], tmp_path / "out").found}

    assert found(folder) == {str(folder / "a.jpg"), str(folder / "b/1.PNG")}
    named = folder / "._a.png"
    assert found(named) == {str(named)}, "a file that is named is meant"


def test_the_digest_of_a_model_leaves_hidden_files_out(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"weights")
    before = model_digest(folder)
    for name in ("Thumbs.db", "._weights.bin", ".cache/weights.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"other")
    assert model_digest(folder) == before
    (folder / "weights.bin").write_bytes(b"other")
    assert model_digest(folder) != before


def test_the_statistics_of_a_generated_set_leave_hidden_files_out(folder: Path) -> None:
    (folder / "._broken.png").write_bytes(b"no image")
    assert ": 2 images," in report(folder.parent)
