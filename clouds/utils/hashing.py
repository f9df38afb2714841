"""Digests of files and folders."""

import hashlib
from pathlib import Path


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
