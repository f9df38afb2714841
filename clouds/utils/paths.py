"""Paths that files and command lines name."""

_LONGEST_NAME = 255  # bytes, on all common file systems
_LONGEST_PATH = 4096  # bytes, on Linux


def is_path(text: str) -> bool:
    """Return whether a file system can have a path of this name. A URL is none, and no name has control characters."""
    if not text.isprintable() or "://" in text or len(text.encode()) >= _LONGEST_PATH:
        return False
    return all(len(name.encode()) <= _LONGEST_NAME for name in text.split("/"))
