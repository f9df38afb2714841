"""Names that a file system takes, and home folders."""

from pathlib import Path

import pytest

from clouds.utils.paths import is_path, user_path


@pytest.mark.parametrize("text", ["", "a", "/a/b.png", "../a", "~/a b", "ä" * 127, "/".join(["a" * 255] * 15)])
def test_paths(text: str) -> None:
    assert is_path(text)


@pytest.mark.parametrize(
    "text",
    ["a\0", "a\nb", "\ud800", "https://x/a", "a" * 256, "ä" * 128, f"a/{'b' * 256}/c", "/".join(["a" * 255] * 17)],
)
def test_other_texts(text: str) -> None:
    assert not is_path(text)


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a") == Path("/home/me/a")
    assert user_path(Path("~")) == Path("/home/me")
    assert user_path("~nobody-of-that-name/a") == Path("~nobody-of-that-name/a")
    assert user_path("b/~") == Path("b/~")
