"""Sizes and limits of the memory; glibc keeps freed memory where it is told to, and nowhere else."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clouds.utils import memory

# Prints whether the settings hold, then the page faults of writing 128 MB a second time.
PROGRAM = """
import resource
from clouds.utils.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

print(keep_freed_memory())
bytearray(2**27)
before = faults()
bytearray(2**27)
print(faults() - before)
"""


def run(**variables: str) -> tuple[str, int]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env | variables, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(not memory._is_glibc(), reason="needs glibc")
def test_memory_is_used_again() -> None:
    said, faults = run()
    assert said == "True"
    assert faults < 1000, "of 32,768 pages"


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_user_stay(variable: str) -> None:
    assert run(**{variable: "1"})[0] == "False"


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert not memory.keep_freed_memory()


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc")
def test_sizes_of_this_process_and_machine() -> None:
    now, peak, machine = memory.resident_size(), memory.resident_size(peak=True), memory.machine_memory()
    assert 2**24 < now <= peak * 1.05 < machine
    with mmap.mmap(-1, 2**27) as block:  # new pages; those of a bytearray may be freed ones of another test
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        assert memory.resident_size() > now + 2**26


def test_unknown_sizes_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert memory.resident_size() is None
    assert memory.machine_memory() is None
    memory.limit_memory()


def test_the_lowest_limit_of_the_control_groups_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       1000 kB\nMemFree:  3 kB\n")
    (proc / "self/cgroup").write_text("1:name=systemd:/x\n0::/slurm/job_1/step_0\n")
    (groups / "slurm/job_1/step_0").mkdir(parents=True)
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    assert memory.machine_memory() == 1_024_000
    (groups / "slurm/job_1/memory.max").write_text("50000\n")
    (groups / "slurm/job_1/step_0/memory.max").write_text("max\n")
    assert memory.machine_memory() == 50_000
    (tmp_path / "memory.max").write_text("1\n")  # above the control groups
    assert memory.machine_memory() == 50_000


LIMITED = """
from clouds.utils import memory
memory.machine_memory = lambda: 2**30
memory.limit_memory()
try:
    bytearray(2**31)
except MemoryError:
    print("refused")
bytearray(2**28)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_more_memory_than_there_is_cannot_be_allocated() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
