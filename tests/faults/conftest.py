"""Fixtures of all fault tests: child processes and small file systems.

A test of this folder looks like this::

    def test_it(processes: Processes, tmpfs: Callable[[str], Path]) -> None:
        folder = tmpfs("2m")
        outcome = processes.run_and_kill(train.main, ["--config-file", ...], Line("iter: 3"), signal.SIGTERM)
        assert (outcome.code, outcome.orphans) == (75, []), outcome.output

`train.main` runs in a fork of a process that has imported everything, `ROOT / "train_net.py"` as a new process. Any
function of a test module can take its place.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.processes import PROC, Processes, template


@pytest.fixture(scope="session")
def _template() -> Iterator[None]:
    if not (PROC / "self/environ").exists():
        pytest.skip("needs /proc, to find the processes of a command")
    with template():
        yield


@pytest.fixture
def processes(_template: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts commands and kills them. All processes are ended after the test."""
    started = Processes(tmp_path_factory.mktemp("logs"))
    yield started
    started.end()


@pytest.fixture
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Function that makes a file system of a size such as ``2m`` in memory and returns its folder.

    The test is skipped where file systems cannot be mounted.
    """
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path_factory.mktemp("tmpfs")
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot mount a tmpfs: {error}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
