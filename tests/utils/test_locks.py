"""Locks between processes, on file systems with and without them."""

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from clouds.errors import WriteError
from clouds.utils.locks import acquire

HOLD = """
import sys
from pathlib import Path
from filelock import FileLock
from clouds.utils.locks import acquire
lock = FileLock(sys.argv[1])
assert acquire(lock)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", blocking=False)
    words = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            assert not acquire(lock)
        finally:
            process.kill()
    assert acquire(lock)
    lock.release()


def test_a_lock_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/lock cannot be written"):
        acquire(FileLock(tmp_path / "file/lock", timeout=9))


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")])
def test_a_file_system_without_locks_is_told_once(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Lock(FileLock):
        def acquire(self, *args: object, **kwargs: object) -> None:
            raise error

    file = tmp_path / type(error).__name__
    with caplog.at_level(logging.WARNING):
        assert acquire(Lock(file))
        assert acquire(Lock(file))
    [record] = caplog.records
    assert record.getMessage().startswith(f"{file} cannot be locked (")
