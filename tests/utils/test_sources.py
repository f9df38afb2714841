"""Inputs of a prediction, and the names of their results."""

from pathlib import Path

import pytest

from clouds.errors import UserError
from clouds.utils.sources import LONGEST_NAME, find_sources


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def named(folder: Path, *words: str) -> list[tuple[str, str, str]]:
    found = find_sources([word.format(folder) for word in words], folder / "out").found
    return [
        (each.name.removeprefix(f"{folder}/"), each.kind, str(each.target.relative_to(folder / "out")))
        for each in found
    ]


def test_folders(tmp_path: Path) -> None:
    images = ("b/2.jpg", "b/1.PNG", "a.webp", "scan.TIF", "iphone.heic", "same.jpg", "same.png", "same.MP4")
    write(tmp_path, *images, "read.me", "b/notes.txt", "out/1_overlay.jpg", ".hidden.png")
    assert named(tmp_path, "{}") == [
        ("a.webp", "image", "a"),
        ("b/1.PNG", "image", "b/1"),
        ("b/2.jpg", "image", "b/2"),
        ("iphone.heic", "image", "iphone"),
        ("same.MP4", "video", "same.MP4"),
        ("same.jpg", "image", "same.jpg"),
        ("same.png", "image", "same.png"),
        ("scan.TIF", "image", "scan"),
    ]
    others = find_sources([str(tmp_path)], tmp_path / "out").others
    assert others == [tmp_path / "b/notes.txt", tmp_path / "read.me"]
    assert named(tmp_path, "{}/b/2.jpg", "{}/b/2.jpg") == [("b/2.jpg", "image", "2")]


def test_patterns(tmp_path: Path) -> None:
    write(tmp_path, "x/1/a.png", "x/2/a.png", "x/2/b.jpg", "x/2/deep/c.png", "odd[1].png")
    assert named(tmp_path, "{}/x/*/*.png") == [("x/1/a.png", "image", "1/a"), ("x/2/a.png", "image", "2/a")]
    assert [name for name, *_ in named(tmp_path, "{}/**/c.*")] == ["x/2/deep/c.png"]
    assert named(tmp_path, "{}/odd[1].png") == [("odd[1].png", "image", "odd[1]")]
    with pytest.raises(UserError, match=r"^Input not found: there is no file or folder '.*\*\.gif'"):
        named(tmp_path, "{}/*.gif")


def test_cameras_and_addresses(tmp_path: Path) -> None:
    words = ("camera:0", "http://localhost/a%20b.jpg?size=2", "https://localhost/c.mp4", "http://localhost/")
    assert named(tmp_path, *words) == [
        ("0", "camera", "camera_0"),
        ("http://localhost/a%20b.jpg?size=2", "image", "a b"),
        ("https://localhost/c.mp4", "video", "c"),
        ("http://localhost/", "image", "download"),
    ]
    with pytest.raises(UserError, match=r"^http://\[ is not a URL"):
        named(tmp_path, "http://[")


def test_the_kind_of_a_file_without_a_known_ending(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(600))
    (tmp_path / "photo").write_bytes(b"\xff\xd8" + bytes(600))
    assert [kind for _, kind, _ in named(tmp_path, "{}/clip", "{}/photo")] == ["video", "image"]


def test_results_have_names_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "x/1.png", "y/1.png", f"{'l' * (LONGEST_NAME + 1)}.png")
    with pytest.raises(UserError, match=r"^Two inputs are called 1"):
        named(tmp_path, "{}/x", "{}/y")
    with pytest.raises(UserError, match=rf"is too long for its results: give it at most {LONGEST_NAME} bytes\.$"):
        named(tmp_path, "{}")
