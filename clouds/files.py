"""Writing files so that nobody ever finds half of one, and telling one folder of weights from another."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
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


def model_digest(folder: Path) -> str:
    """The sha256, hexadecimal, of all files of a model's folder and their names.

    Hidden files do not count, nor what is about the model and not of it, such as its card and pictures: it may change.
    """
    digest = hashlib.sha256()
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".md", ".png", ".jpg"))
    for file in sorted(files):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
