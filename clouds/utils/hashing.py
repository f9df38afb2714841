"""SHA-256 digests of files and folders."""

import hashlib
from pathlib import Path

from clouds.utils.atomic import write_atomically
from clouds.utils.folders import is_hidden

RECORD = ".sha256"
"""Ending that the record of a file's digest adds to its name. It holds one line, in the format of ``sha256sum``."""

_ABOUT_THE_MODEL = (".md", ".png", ".jpg", RECORD)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file's content, 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_sha256(path: Path) -> None:
    """Write the SHA-256 digest of a file beside it, as its `RECORD`.

    Raises:
        OSError: the file cannot be read or its record cannot be written.
    """
    write_atomically(path.with_name(path.name + RECORD), f"{file_sha256(path)}  {path.name}\n")


def model_digest(folder: Path) -> str:
    """Return the SHA-256 digest of all files of a model's folder and their names, 64 hexadecimal digits.

    Hidden files, Markdown files, images and records of digests (``*.sha256``) are left out: a model card may change
    without changing the model.
    """
    digest = hashlib.sha256()
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix not in _ABOUT_THE_MODEL)
    for file in sorted(files):
        if any(map(is_hidden, file.relative_to(folder).parts)):
            continue
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()
