"""SHA-256 digests of files and folders."""

import hashlib
from pathlib import Path

from clouds.utils.folders import is_hidden

_ABOUT_THE_MODEL = (".md", ".png", ".jpg", ".sha256")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file's content, 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
