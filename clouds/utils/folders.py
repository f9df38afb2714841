"""Listing folders. Hidden files are not data, wherever files are listed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from clouds.errors import UserError
from clouds.utils.images import IMAGE_SUFFIXES

_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is one that programs leave behind and not data.

    These are names that begin with a dot (`.DS_Store`, `._a.png` of macOS, `.ipynb_checkpoints`), and `Thumbs.db`,
    `desktop.ini` and `__MACOSX`.
    """
    return name[:1] == "." or name.lower() in _LITTER


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the visible files in a folder and its sub-folders, in any order; links to folders are not followed.

    Args:
        folder: folder to search. If there is none, nothing is yielded.

    Raises:
        UserError: a folder cannot be listed.
    """
    if not folder.is_dir():
        return
    for where, folders, files in os.walk(folder, onerror=_raise_unlisted):
        folders[:] = [inner for inner in folders if not is_hidden(inner)]
        yield from (Path(where, file) for file in files if not is_hidden(file))


def image_files(folder: Path) -> list[Path]:
    """Return the visible images in a folder and its sub-folders.

    Args:
        folder: folder to search. If there is none, the list is empty.

    Returns:
        Paths in sorted order.

    Raises:
        UserError: a folder cannot be listed.
    """
    return sorted(file for file in walk_files(folder) if file.suffix.lower() in IMAGE_SUFFIXES)


def _raise_unlisted(error: OSError) -> NoReturn:
    raise UserError(f"The folder {error.filename} cannot be listed ({error.strerror}): see its permissions.")
