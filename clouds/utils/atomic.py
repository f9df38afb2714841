"""Atomic writing: a file is complete or as it was before, even if the process is killed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` at the end, unless an exception is raised.

    A process that is killed leaves a stray `.part` file, never an incomplete file under the final name.
    """
    # The process id keeps processes that write the same file apart.
    part_file = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with named_errors(path):
            yield part_file
            part_file.replace(path)
    finally:
        part_file.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give the name of a file to an `OSError` without one: the error of a write, such as a full disk, has none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file atomically; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as part_file:
        part_file.write_bytes(content.encode() if isinstance(content, str) else content)
