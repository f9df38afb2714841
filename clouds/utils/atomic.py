"""Writing. Every file is written by this module: it is complete or as it was before, even if the process is killed.

A failure to write is a `clouds.errors.WriteError`, whatever a library makes of it.
"""

import contextlib
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from clouds.errors import WriteError

logger = logging.getLogger(__name__)

PART = ".part"
"""Ending of the temporary files."""
STALE = 3600.0
"""Age in seconds from which a temporary file belongs to a process that no longer runs."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary binary file beside `path`; it replaces `path` at the end, unless an exception is raised.

    A process that is killed leaves a stray `.part` file, never an incomplete file under the final name. The file can be
    written, read, and positioned.

    Raises:
        WriteError: the file cannot be written. It is raised also where a library that writes the file raises another
            exception or none.
    """
    part_file = _part(path)
    try:
        with writing(path):
            raw = _RecordingFile(part_file, "w+")
        file = io.BufferedRandom(raw)
        try:
            yield file
            with writing(path):
                file.close()  # some file systems report a full disk only here
                if raw.failure is not None:
                    raise raw.failure
        except Exception as error:
            if raw.failure is None:
                raise
            raise _write_error(raw.failure, path) from error
        finally:
            with contextlib.suppress(OSError):
                file.close()
        with writing(path):
            part_file.replace(path)
    finally:
        with contextlib.suppress(OSError):  # on a disk that has become read-only
            part_file.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which becomes the folder `path` at the end, in one step.

    For libraries that write several files by themselves. If `path` exists, the temporary folder is inside it, and its
    files replace those of equal names in sorted order, each in one step; other files in `path` stay.

    Raises:
        WriteError: `path` or a file in it cannot be written.
    """
    is_new = not path.exists()
    part_folder = _part(path if is_new else path / ".files")
    try:
        with writing(path):
            part_folder.mkdir(parents=True)
            try:
                yield part_folder
            except Exception as error:  # safetensors names the error of the operating system in its text only
                if isinstance(error, OSError) or not (number := re.search(r"\(os error (\d+)\)", str(error))):
                    raise
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            if is_new and not path.exists():
                part_folder.rename(path)
                return
            for file in sorted(each for each in part_folder.rglob("*") if each.is_file()):
                target = path / file.relative_to(part_folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    finally:
        shutil.rmtree(part_folder, ignore_errors=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file atomically; text is encoded as UTF-8.

    Raises:
        WriteError: the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append_file(path: Path) -> BinaryIO:
    """Open a file to append to, such as a log, whose readers must accept an incomplete last line.

    Writes to it belong into `writing`.

    Raises:
        WriteError: the file cannot be opened.
    """
    with writing(path):
        return path.open("ab")


def make_folder(path: Path) -> None:
    """Create a folder and those above it, unless it exists; temporary files that a killed process has left are removed.

    Raises:
        WriteError: the folder cannot be created.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    for stray in path.glob(f"*.[0-9]*{PART}"):
        with contextlib.suppress(OSError):  # another process has removed it, or writes it
            if stray.is_file() and time.time() - stray.stat().st_mtime > STALE:
                stray.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an `OSError` of the body as the `WriteError` of `path`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise _write_error(error, path) from error


class OptionalOutput:
    """Output that is not part of a result, such as a cache: what cannot be written is left out, with one warning."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: beginning of the warning, such as "The cache in /tmp".
        """
        self.name = name
        self.has_failed = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Suppress an `OSError` of the body; the first one is logged."""
        try:
            yield
        except OSError as error:
            if not self.has_failed:
                logger.warning(f"{self.name} cannot be written and is left out ({error.strerror or error})")
            self.has_failed = True


class _RecordingFile(io.FileIO):
    """File that keeps the first failure to write, which libraries hide behind exceptions of their own.

    Attributes:
        failure: the first failure; None if there is none.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


def _part(path: Path) -> Path:
    # The process id keeps processes that write the same file apart.
    return path.with_name(f"{path.name}.{os.getpid()}{PART}")


def _write_error(error: OSError, path: Path) -> WriteError:
    return WriteError(error.errno, error.strerror or str(error), str(path))
