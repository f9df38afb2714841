"""A file is whole or as it was before."""

from pathlib import Path

import pytest

from clouds.utils.atomic import atomic_file


def test_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    for content in (b"one", b"two"):
        with atomic_file(path) as part_file:
            assert part_file.parent == tmp_path and part_file != path
            part_file.write_bytes(content)
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_the_old_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(path) as part_file:
            part_file.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
