"""Patterns of files: what they match, the ids, pairs, endings, hidden files."""

import os
import re
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.data.datasets.pairing import list_files, pair_by_stem, pair_files
from clouds.data.datasets.patterns import FilePattern, pattern_fault
from clouds.data.datasets.spec import DatasetSpec
from clouds.data.preparation.check import check_dataset
from clouds.data.preparation.listing import DescribedFiles
from clouds.errors import UserError
from tests.data.conftest import label_map, save, smooth_image
from tests.data.datasets.test_catalog import touch

MATCHES = [
    ("images/*.png", "images/a.png", "a"),
    ("images/*.png", "images/deep/er/a.png", "a"),
    ("images/*.png", "images/a.PNG", "a"),
    ("images/*.png", "images/a.pngx", None),
    ("images/*.png", "images/apng", None),
    ("images/x_*_L.png", "images/x_1_L.Png", "1"),
    ("images/x_*_L.png", "images/X_1_L.png", None),
    ("images/x_*_L.png", "images/x_1_l.png", None),
    ("images/*.{png,jpg}", "images/a.JPG", "a"),
    ("images/*.{png,jpg}", "images/a.jpeg", None),
    ("images/*{_a.png,_b.jpg}", "images/1_b.JPG", "1"),
    ("images/*_cam_*.png", "images/s/1_cam_2.png", "1/2"),
    ("images/**/*.png", "images/a.png", "a"),
    ("images/**/*.png", "images/b/c/a.png", "b/c/a"),
    ("*/camera/*/*.png", "s/camera/c/1.png", "s/c/1"),
    ("*/camera/*/*.png", "s/camera/c/d/1.png", None),
    ("*/camera/*/*.png", "s/label/c/1.png", None),
    ("{a,b}/*.png", "b/1.png", "1"),
    ("{a,b}/*.png", "b/c/1.png", None),
    ("*/**/rgb/*.png", "s/rgb/1.png", "s/1"),
    ("*/**/rgb/*.png", "s/x/y/rgb/1.png", "s/x/y/1"),
    ("*/image.png", "s/IMAGE.png", None),
    ("*/image.png", "s/image.PNG", "s"),
    ("a.b/*", "a.b/c.png", "c.png"),
    ("images/[1]*.png", "images/[1]a.png", "a"),
    ("images/*.png", "images/a\nb.png", "a\nb"),
]


@pytest.mark.parametrize(("text", "path", "image_id"), MATCHES)
def test_what_a_pattern_matches(text: str, path: str, image_id: str | None, tmp_path: Path) -> None:
    assert pattern_fault(text) is None
    pattern = FilePattern.parse(tmp_path, text)
    assert pattern.image_id(str(tmp_path / path)) == image_id
    touch(tmp_path / path)
    found = [file for file in list_files("x", pattern.folder, pattern.covers) if pattern.image_id(file) is not None]
    assert found == ([str(tmp_path / path)] if image_id is not None else []), "the folders on its way are searched"


@given(st.lists(st.text("ab_/.", min_size=1, max_size=6).filter(lambda text: "//" not in text), min_size=2, max_size=2))
def test_different_paths_have_different_ids(paths: list[str]) -> None:
    pattern = FilePattern(Path("/r"), "*/**/*_*.png")
    ids = {f"/r/{path}.png": pattern.image_id(f"/r/{path}.png") for path in paths}
    known = {path: image_id for path, image_id in ids.items() if image_id is not None}
    assert set(known) == {path for path in ids if re.fullmatch(r"/r/[^/]*/(.+/)?[^/]*_[^/]*\.png", path)}
    assert len(set(known.values())) == len(known)


def test_only_the_folders_of_a_pattern_are_searched(tmp_path: Path) -> None:
    touch(tmp_path / "s/camera/c/1.png", tmp_path / "s/lidar/c/1.npz", tmp_path / "s/camera/c/d/e.png")
    pattern = FilePattern.parse(tmp_path, "*/camera/*/*.png")
    assert [*list_files("x", tmp_path, pattern.covers)] == [str(tmp_path / "s/camera/c/1.png")]


def test_pairs_of_sequences_that_repeat_their_names(tmp_path: Path) -> None:
    for scene in ("b", "a"):
        touch(tmp_path / f"{scene}/rgb/1.jpg", tmp_path / f"{scene}/labels/deep/1.png")
    images = FilePattern.parse(tmp_path, "*/rgb/*.jpg")
    labels = FilePattern.parse(tmp_path, "*/labels/deep/*.png")
    assert pair_files("x", images, labels) == [
        {
            "file_name": str(tmp_path / f"{scene}/rgb/1.jpg"),
            "sem_seg_file_name": str(tmp_path / f"{scene}/labels/deep/1.png"),
            "image_id": f"{scene}/1",
        }
        for scene in ("a", "b")
    ]
    (tmp_path / "b/labels/deep/1.png").rename(tmp_path / "b/labels/deep/2.png")
    with pytest.raises(UserError, match=r"1 of 2 images have no label map.*\(looked for b/labels/deep/1\.png under"):
        pair_files("x", images, labels)


def test_a_flat_pattern_names_the_pattern_that_tells_sequences_apart(tmp_path: Path) -> None:
    touch(tmp_path / "i/a/1.png", tmp_path / "i/b/1.png")
    with pytest.raises(
        UserError, match=r"1\.png exists twice, as .* and .*; remove one of them \(.*\*\*/\*\.png makes"
    ):
        pair_by_stem("x", tmp_path / "i", ".png", tmp_path / "i", ".png")
    images = FilePattern.parse(tmp_path, "i/**/*.png")
    touch(tmp_path / "l/a/1.png", tmp_path / "l/b/1.png")
    records = pair_files("x", images, FilePattern.parse(tmp_path, "l/**/*.png"))
    assert [record["image_id"] for record in records] == ["a/1", "b/1"]


@pytest.mark.parametrize("names", [("1.jpg", "1.JPG"), ("1.jpg", "1.png")])
def test_two_files_of_one_id_are_both_named(names: tuple[str, str], tmp_path: Path) -> None:
    touch(*(tmp_path / "i" / name for name in names), tmp_path / "l/1.png")
    images, labels = FilePattern.parse(tmp_path, "i/*.{jpg,png}"), FilePattern.parse(tmp_path, "l/*.png")
    with pytest.raises(UserError) as error:
        pair_files("x", images, labels)
    assert all(str(tmp_path / "i" / name) in str(error.value) for name in names)
    assert "would be the same image 1; remove one of them" in str(error.value)


def test_every_file_of_an_id_that_occurs_twice_is_listed(tmp_path: Path) -> None:
    for number in range(3):
        touch(tmp_path / f"i/a/{number}.png", tmp_path / f"i/b/{number}.png", tmp_path / f"l/{number}.png")
    spec = DatasetSpec("x", ("i/*.png",), ("l/*.png",))
    problems = DescribedFiles(spec, tmp_path).scan().problems
    assert len([problem for problem in problems if "exists twice" in problem]) == 3


SAME = [("*.png", "*.png"), ("a/*.png", "a/*.png"), ("**/*.png", "**/*.{png,jpg}"), ("a/*.png", "*.png")]


@pytest.mark.parametrize(("images", "labels"), SAME)
def test_patterns_that_match_the_same_files_are_an_error(images: str, labels: str, tmp_path: Path) -> None:
    save(tmp_path / "a/1.png", smooth_image(0))
    save(tmp_path / "a/2.png", label_map(0))
    spec = DatasetSpec("x", (images,), (labels,))
    message = "x: the patterns of its images and of its label maps match the same files, such as "
    with pytest.raises(UserError, match=message):
        spec.load(tmp_path)
    (problem,) = check_dataset(DescribedFiles(spec, tmp_path)).problems
    assert problem.startswith(message)


def test_the_ending_may_be_in_any_case(tmp_path: Path) -> None:
    for number, ending in enumerate(("JPG", "jpg", "Jpg")):
        save(tmp_path / f"i/{number}.{ending}", smooth_image(number))
        save(tmp_path / f"l/{number}_L.{'PNG' if number else 'png'}", label_map(number))
    spec = DatasetSpec("x", ("i/*.jpg",), ("l/*_L.png",))
    assert [record["image_id"] for record in spec.load(tmp_path)] == ["0", "1", "2"]
    result = check_dataset(DescribedFiles(spec, tmp_path))
    assert (result.problems, len(result.records)) == ([], 3)
    save(tmp_path / "i/3.jpeg", smooth_image(3))
    (problem,) = check_dataset(DescribedFiles(spec, tmp_path)).problems
    assert "3.jpeg is an image among the images, but images are called *.jpg here: rename it or move it away" in problem


def test_images_of_other_names_are_found_in_the_folders_of_a_deep_pattern(tmp_path: Path) -> None:
    save(tmp_path / "s/rgb/1.jpg", smooth_image(0))
    save(tmp_path / "s/labels/1.png", label_map(0))
    for other in ("s/depth/1.png", "s/preview.png", "map.png"):
        save(tmp_path / other, label_map(0))
    spec = DatasetSpec("x", ("*/rgb/*.jpg",), ("*/labels/*.png",))
    assert check_dataset(DescribedFiles(spec, tmp_path)).problems == []
    save(tmp_path / "s/rgb/2.png", smooth_image(0))
    (problem,) = check_dataset(DescribedFiles(spec, tmp_path)).problems
    assert "s/rgb/2.png is an image among the images, but images are called */rgb/*.jpg" in problem


def test_hidden_files_are_not_data(tmp_path: Path) -> None:
    save(tmp_path / "i/1.png", smooth_image(0))
    save(tmp_path / "l/1.png", label_map(0))
    spec = DatasetSpec("x", ("i/*.png",), ("l/*.png",))
    files = DescribedFiles(spec, tmp_path)
    before = files.fingerprint()
    for name in (
        "._1.png",
        ".ipynb_checkpoints/1-checkpoint.png",
        ".1.jpg",
        "__MACOSX/i/2.png",
        "Thumbs.db",
        ".DS_Store",
    ):
        touch(tmp_path / "i" / name, tmp_path / "l" / name)
    assert [record["image_id"] for record in spec.load(tmp_path)] == ["1"]
    result = check_dataset(files)
    assert (result.problems, result.num_images) == ([], 1)
    assert files.fingerprint() == before
    deep = DatasetSpec("x", ("{i,j}/**/*.png",), ("{l,m}/**/*.png",))
    assert [record["image_id"] for record in deep.load(tmp_path)] == ["1"]


def test_a_data_root_in_a_hidden_folder_is_searched(tmp_path: Path) -> None:
    touch(tmp_path / ".data/i/1.png", tmp_path / ".data/l/1.png")
    assert len(DatasetSpec("x", ("i/*.png",), ("l/*.png",)).load(tmp_path / ".data")) == 1


def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "i/1.png", tmp_path / "l/1.png")
    with open(os.fsencode(tmp_path) + b"/i/\xfc.png", "wb"):  # noqa: PTH123
        pass
    spec = DatasetSpec("x", ("i/*.png",), ("l/*.png",))
    with pytest.raises(UserError, match=r"the name of the file '.*/i/\\udcfc\.png' is not UTF-8; rename it"):
        spec.load(tmp_path)
    assert len(DescribedFiles(spec, tmp_path).scan().problems) == 1


@pytest.mark.parametrize(("text", "path", "image_id"), MATCHES)
def test_windows_paths_are_matched_with_slashes(text: str, path: str, image_id: str | None) -> None:
    pattern = FilePattern.parse(PureWindowsPath("C:\\data"), text)
    assert pattern.image_id(f"C:/data/{path}") == image_id


def test_listed_paths_have_slashes_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "walk", lambda *_, **__: [("C:\\data\\a", ["b"], ["1.png"]), ("C:\\data\\a\\b", [], ["2.png"])]
    )
    monkeypatch.setattr(os, "sep", "\\")
    covered: list[str] = []
    found = list_files("x", Path("C:\\data"), lambda folder: not covered.append(folder))
    assert list(found) == ["C:/data/a/1.png", "C:/data/a/b/2.png"]
    assert covered == ["C:/data/a/b"]
