"""The harness itself: a template without threads, signals at their moments, processes that are left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.child import Event
from tests.faults.processes import PROC, Line, Processes, Seconds

pytestmark = pytest.mark.slow

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def describe(argv: list[str]) -> int:
    threads = len(list(Path("/proc/self/task").iterdir())), threading.active_count()
    print("imported", "clouds.generation.painting" in sys.modules, "threads", *threads, "argv", *argv)
    print("variable", os.environ["SOME"], file=sys.stderr)
    print("starts", multiprocessing.get_start_method())
    return 7


def write_files(argv: list[str]) -> int:
    for number in range(4):
        part = Path(argv[0]) / f"{number}.part"
        part.write_text("")
        part.replace(Path(argv[0]) / str(number))
        print("written", number)
    return 0


def wait(argv: list[str]) -> int:
    print("waits")
    time.sleep(60)
    return 0


def leave_a_process(argv: list[str]) -> int:
    subprocess.Popen(SLEEP, start_new_session="apart" in argv)
    if "fork" in argv and os.fork() == 0:
        time.sleep(60)
    return 0


def test_a_fork_of_the_template(processes: Processes) -> None:
    outcome = processes.run(describe, ["a", "b"], environment={"SOME": "value"})
    assert outcome.code == 7
    start = multiprocessing.get_context().get_start_method()
    lines = ["imported True threads 1 1 argv a b", "variable value", f"starts {start}"]
    assert outcome.output.splitlines() == lines, "loaders start their workers as in a new process"
    assert outcome.orphans == []


def test_signals_at_their_moments(processes: Processes, tmp_path: Path) -> None:
    whole = processes.run(write_files, [str(tmp_path)], event=Event(0, tmp_path))
    assert (whole.code, whole.changes) == (0, 8)
    for number in range(1, 9):
        folder = tmp_path / f"killed-{number}"
        folder.mkdir()
        killed = processes.run_and_kill(write_files, [str(folder)], Event(number, folder))
        assert killed.code == -signal.SIGKILL
        assert len(list(folder.iterdir())) == number // 2, "the change before which it was killed is not made"
        assert [path.suffix for path in sorted(folder.iterdir())].count(".part") == (number + 1) % 2
    for when in (Seconds(0.5), Line("waits")):
        assert processes.run_and_kill(wait, [], when, signal.SIGTERM).code == -signal.SIGTERM
    assert processes.run_and_kill(describe, [], Seconds(60), environment={"SOME": ""}).code == 7, "it ends earlier"


@pytest.mark.parametrize("how", [[], ["apart"], ["fork"]])
def test_processes_left_behind_are_found_and_ended(processes: Processes, how: list[str]) -> None:
    started = processes.start(leave_a_process, how)
    outcome = started.finish(grace=0.5)
    assert outcome.code == 0
    assert len(outcome.orphans) == 1 + ("fork" in how)
    assert started.processes() == {}


def test_a_script_and_its_processes(processes: Processes, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import subprocess, os\nprint(os.getpid(), flush=True)\nsubprocess.run({SLEEP})\n")
    started = processes.start(script)
    assert started.wait_for(Line(str(started.pid)))
    while len(started.processes()) < 2:
        time.sleep(0.02)
    started.send(signal.SIGKILL)
    outcome = started.finish(grace=0.5)
    assert (outcome.code, len(outcome.orphans)) == (-signal.SIGKILL, 1)
    assert not any((PROC / str(pid)).exists() for pid in (started.pid, *started.processes()))


def test_a_small_file_system(tmpfs: Callable[[str], Path]) -> None:
    with pytest.raises(OSError, match="No space left"):
        (tmpfs("1m") / "file").write_bytes(bytes(2 << 20))
