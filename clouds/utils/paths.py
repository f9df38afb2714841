"""Paths that files and command lines name."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clouds.errors import UserError

_LONGEST_NAME = 255  # bytes, on all common file systems
_LONGEST_PATH = 4096  # bytes, on Linux


def is_path(text: str) -> bool:
    """Return whether a file system can have a path of this name. A URL is none, and no name has control characters."""
    if not text.isprintable() or "://" in text or len(text.encode()) >= _LONGEST_PATH:
        return False
    return all(len(name.encode()) <= _LONGEST_NAME for name in text.split("/"))


def is_url(text: str) -> bool:
    """Return whether a text is a URL that can be downloaded, and no path."""
    return text.startswith(("http://", "https://"))


def url_name(url: str) -> str:
    """Return the name of the file in a URL; "" if its path ends in a slash.

    Raises:
        UserError: the text is not a URL.
    """
    try:
        return Path(unquote(urlsplit(url).path)).name
    except ValueError as error:
        raise UserError(f"{url} is not a URL ({error}): check it.") from error


def user_path(text: str | Path) -> Path:
    """Return a path that a user names, with `~` and `~user` expanded as a shell does: an unknown user's name stays."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  (Path.expanduser raises an exception for an unknown user)
