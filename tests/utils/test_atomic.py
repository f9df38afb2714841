"""A file written atomically is complete or as it was before."""

from pathlib import Path

import pytest

from clouds.utils.atomic import atomic_file, write_atomically


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    for content in (b"one", b"two"):
        with atomic_file(path) as part_file:
            assert part_file.parent == tmp_path and part_file != path
            part_file.write_bytes(content)
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_content_and_leaves_no_other_file(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("content", "written"), [(b"\xff\n", b"\xff\n"), ("straße\n", "straße\n".encode())])
def test_whole_files_of_bytes_or_text(tmp_path: Path, content: bytes | str, written: bytes) -> None:
    write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == written
    assert len(list(tmp_path.iterdir())) == 1
