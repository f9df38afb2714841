"""Locks of files between processes. A lock ends with its process, however that ends."""

import errno
import logging
import os
from functools import cache
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from clouds.errors import WriteError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO}


def acquire(lock: FileLock) -> bool:
    """Take a lock, waiting as long as it says.

    Returns:
        Whether this process has the lock; False if another process has it. On a file system without locks, a warning
        is logged and the result is True.

    Raises:
        WriteError: the file of the lock cannot be written, or its folder does not exist.
    """
    if not Path(lock.lock_file).parent.exists():  # filelock would make it
        raise WriteError(errno.ENOENT, os.strerror(errno.ENOENT), str(lock.lock_file))
    try:
        lock.acquire()
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:  # filelock raises the latter for a file system without locks
        if isinstance(error, OSError) and error.errno not in _WITHOUT_LOCKS:
            raise WriteError(error.errno, error.strerror, str(lock.lock_file)) from error
        _warn(str(lock.lock_file), str(error))
    return True


@cache
def _warn(file: str, reason: str) -> None:
    logger.warning(f"{file} cannot be locked ({reason}): do not start a second command in this folder.")


def lock_open_file(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed, also by the child processes that inherit it.

    Returns:
        Whether this process has the lock; False if another process has it. On a platform or file system without such
        locks it is True.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
