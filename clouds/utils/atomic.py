"""Writing files atomically."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """The name of a file beside `path` to write to; at the end it takes the place of `path`, unless writing failed.

    A process that is killed leaves a stray `.part` file, never half a file under a name that is read.
    """
    # The number keeps processes that write the same file apart.
    part_file = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part_file
        part_file.replace(path)
    finally:
        part_file.unlink(missing_ok=True)
