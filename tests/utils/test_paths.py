"""Names that a file system takes."""

import pytest

from clouds.utils.paths import is_path


@pytest.mark.parametrize("text", ["", "a", "/a/b.png", "../a", "~/a b", "ä" * 127, "/".join(["a" * 255] * 15)])
def test_paths(text: str) -> None:
    assert is_path(text)


@pytest.mark.parametrize(
    "text",
    ["a\0", "a\nb", "\ud800", "https://x/a", "a" * 256, "ä" * 128, f"a/{'b' * 256}/c", "/".join(["a" * 255] * 17)],
)
def test_other_texts(text: str) -> None:
    assert not is_path(text)
