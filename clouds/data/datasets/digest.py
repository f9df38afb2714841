"""Digest of the files of a data set, which tells whether two runs have read the same data."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clouds.data.datasets.spec import data_root

_THREADS = 16  # a network file system takes a millisecond for each file


def dataset_digest(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the SHA-256 digest of the names and sizes of all files of a data set, 64 hexadecimal digits.

    The content is not read, which would take as long as an epoch. Files in the data root are named relative to it, so
    that the digest does not depend on the machine.

    Args:
        records: records of the data set. Their entries whose names end with ``file_name`` are paths of files.
    """
    root = str(data_root())
    files = sorted({value for each in records for name, value in each.items() if name.endswith("file_name") and value})
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, size in zip(files, pool.map(_size, files), strict=True):
            name = os.path.relpath(file, root) if Path(file).is_relative_to(root) else file
            digest.update(f"{Path(name).as_posix()}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _size(file: str) -> int:
    """Return the size of a file in bytes, -1 if there is none."""
    try:
        return Path(file).stat().st_size
    except OSError:
        return -1
