import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clouds.errors import UserError
from clouds.utils.processes import parallel_map


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_from_one_or_several_processes(processes: int) -> None:
    pairs = list(parallel_map(square, range(20), processes=processes, chunk_size=3))
    assert [(item, result) for item, (result, _) in pairs] == [(n, n * n) for n in range(20)]
    assert (os.getpid() in {process for _, (_, process) in pairs}) == (processes == 1)


def test_nothing_to_do() -> None:
    assert list(parallel_map(square, [], processes=2)) == []


def invert(number: int) -> float:
    return 1 / number


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_here(processes: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(invert, [1, 0], processes=processes))


def note_and_sleep(folder: Path, number: int) -> None:
    (folder / f"{number}.txt").write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.parametrize("starts", ["a pool", "another program"])
def test_a_child_ends_with_its_killed_parent(tmp_path: Path, starts: str) -> None:
    work = f"from functools import partial; from pathlib import Path; folder = Path({str(tmp_path)!r})"
    work += "; from tests.utils.test_processes import note_and_sleep"
    pool = "; from clouds.utils.processes import parallel_map; work = partial(note_and_sleep, folder)"
    pool += "; list(parallel_map(work, [0, 1], processes=2, chunk_size=1))"
    child = "; from clouds.utils.processes import end_with_parent; end_with_parent(); note_and_sleep(folder, {})"
    words = [[sys.executable, "-c", work + child.format(number)] for number in range(2)]
    program = f"import subprocess; a, b = [subprocess.Popen(w) for w in {words}]; a.wait()"
    with subprocess.Popen([sys.executable, "-c", work + pool if starts == "a pool" else program]) as parent:
        children: list[int] = []
        try:
            wait_until(lambda: len(list(tmp_path.glob("*.txt"))) == 2, seconds=120)
            wait_until(lambda: all(path.read_text() for path in tmp_path.glob("*.txt")))
            children = [int(path.read_text()) for path in tmp_path.glob("*.txt")]
        finally:
            parent.kill()
    try:
        wait_until(lambda: not any(map(runs, children)))
    finally:
        for child_id in filter(runs, children):
            os.kill(child_id, signal.SIGKILL)


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()  # ended, but nobody has asked how
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(UserError, match="A worker process was killed"):
        list(parallel_map(kill_itself, [0, 1], processes=2))
