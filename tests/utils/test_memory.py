"""glibc keeps freed memory where it is told to, and nowhere else."""

import os
import subprocess
import sys

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
