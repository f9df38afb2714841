"""Digest of the files of a data set, which tells whether two runs have read the same data."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clouds.data.datasets.spec import data_root

_THREADS = 16  # a network file system takes a millisecond for each file
_GROUP = 256  # files that a thread takes at a time: handing over takes longer than a local file system


def dataset_digest(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the SHA-256 digest of the names and sizes of all files of a data set, 64 hexadecimal digits.

    The content is not read, which would take as long as an epoch. Files in the data root are named relative to it, so
    that the digest does not depend on the machine.

    Args:
        records: records of the data set. Their entries whose names end with ``file_name`` are paths of files.
    """
    root = os.path.join(data_root(), "")  # noqa: PTH118  (it ends with a slash)
    files = sorted(
        {os.fspath(path) for each in records for name, path in each.items() if name.endswith("file_name") and path}
    )
    groups = [files[start : start + _GROUP] for start in range(0, len(files), _GROUP)]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for group, sizes in zip(groups, pool.map(_sizes, groups), strict=True):
            for file, size in zip(group, sizes, strict=True):
                name = file.removeprefix(root).replace(os.sep, "/")
                digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _sizes(files: Sequence[str]) -> list[int]:
    return [_size(file) for file in files]


def _size(file: str) -> int:
    """Return the size of a file in bytes, -1 if there is none."""
    try:
        return os.stat(file).st_size  # noqa: PTH116  (there are many files, and a Path takes longer than the call)
    except OSError:
        return -1
