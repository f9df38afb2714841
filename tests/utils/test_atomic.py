"""A file written atomically is complete or as it was before, and a failure to write is one error."""

import errno
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from clouds.errors import WriteError, machine_error
from clouds.utils.atomic import (
    OptionalOutput,
    append_file,
    atomic_file,
    atomic_folder,
    make_folder,
    write_atomically,
    writing,
)


@pytest.fixture
def limit() -> Iterator[int]:
    """Number of bytes that no file of this process may exceed."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    for content in (b"one", b"two"):
        with atomic_file(path) as file:
            file.write(content)
            assert [each.suffix for each in tmp_path.iterdir() if each != path] == [".part"]
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_content_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(path) as file:
            file.write(b"ne")
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


@pytest.mark.parametrize("hides", ["nothing", "as another error", "silently"])
@pytest.mark.parametrize("size", [10, 200_000])
def test_a_failed_write_is_found_whatever_a_library_makes_of_it(
    tmp_path: Path, limit: int, hides: str, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def library() -> None:
        with atomic_file(path) as file:
            file.write(bytes(limit - 5))  # what is small fails only when the buffer is flushed
            try:
                file.write(bytes(size))
                file.flush()
            except OSError as error:
                if hides == "nothing":
                    raise
                if hides == "as another error":
                    raise RuntimeError("unexpected pos 64 vs 0") from error

    with pytest.raises(WriteError) as caught:
        library()
    assert caught.value.errno == errno.EFBIG
    assert str(caught.value).startswith(f"{path} cannot be written (no file may become this large): ")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_error_stays_as_it_is(tmp_path: Path) -> None:
    """Such as one of the network, which is an `OSError`, too."""

    def failing() -> None:
        with atomic_file(tmp_path / "file"):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        failing()
    assert not list(tmp_path.iterdir())


def test_each_cause_has_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder/inside").mkdir(parents=True)
    for path, said in (
        ("gone/file", "its folder has been removed"),
        ("file/x", "a file is in the place of its folder"),
        ("folder", "a folder has its name"),
    ):
        with pytest.raises(WriteError, match=f"cannot be written .{said}.: "):
            write_atomically(tmp_path / path, "")
    with pytest.raises(WriteError, match="another file has its name"):
        make_folder(tmp_path / "file")
    with pytest.raises(WriteError, match="its folder has been removed"):
        append_file(tmp_path / "gone/log.txt")
    with pytest.raises(WriteError, match="File name too long"):
        write_atomically(tmp_path / ("x" * 300), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "x cannot be written (its disk is full): make room, then give the same command again"),
        (errno.EDQUOT, "x cannot be written (the disk quota is used up): make room, then give the same command again"),
        (errno.EROFS, "x cannot be written (its disk is read-only): make it writable, then give the same command"),
        (errno.EACCES, "x cannot be written (permission denied): change the permissions of its folder, then give"),
        (errno.EIO, f"x cannot be written ({os.strerror(errno.EIO)}): look at its folder and its disk, then give"),
        (None, "x cannot be written (no idea): look at its folder and its disk, then give"),
    ],
)
def test_sentences(number: int | None, said: str) -> None:
    error = WriteError(number, os.strerror(number) if number else "no idea", "x")
    assert str(machine_error(error)).startswith(said)
    sent = pickle.loads(pickle.dumps(error))  # from a worker process
    assert (type(sent), str(sent)) == (WriteError, str(error))


def test_files_that_a_killed_process_has_left_are_removed(tmp_path: Path) -> None:
    for name in ("a.png.17.part", "b.png.18.part", "mine.part"):
        (tmp_path / name).touch()
    for name in ("a.png.17.part", "mine.part"):
        os.utime(tmp_path / name, (0, 0))
    make_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png.18.part", "mine.part"]


def test_the_first_name_of_an_error_stays(tmp_path: Path) -> None:
    def nested() -> None:
        with writing(tmp_path):
            write_atomically(tmp_path / "gone/file", "")

    with pytest.raises(WriteError, match="gone/file cannot be written"):
        nested()


def test_files_of_a_folder_are_replaced_together(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/weights").write_text("old")
    (folder / "README.md").write_text("stays")

    def filled(failure: Exception | None) -> None:
        with atomic_folder(folder) as part_folder:
            (part_folder / "unet").mkdir()
            (part_folder / "unet/weights").write_text("new")
            (part_folder / "config").write_text("new")
            if failure is not None:
                raise failure

    hidden = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(WriteError, match=r"model cannot be written \(its disk is full"):
        filled(hidden)
    with pytest.raises(ZeroDivisionError):
        filled(ZeroDivisionError())
    assert (folder / "unet/weights").read_text() == "old"
    assert not (folder / "config").exists()
    filled(None)
    assert [(folder / name).read_text() for name in ("unet/weights", "config", "README.md")] == ["new", "new", "stays"]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_optional_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = OptionalOutput("The cache")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with output.attempt():
                write_atomically(tmp_path / "gone/file", "")
    assert [record.getMessage() for record in caplog.records] == [
        "The cache cannot be written and is left out (No such file or directory)"
    ]
    with pytest.raises(ValueError, match="a defect"), output.attempt():
        raise ValueError("a defect")
