"""Signals: the first asks to stop, the second ends at once, workers leave them to their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clouds.commands.entry import user_errors
from clouds.utils.signals import Stopped, stop_on_signals, stop_requested, stop_signals

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"]

# What the process does is the first word of its command line. It prints lines, and ends after 100 seconds.
PROGRAM = """
import ctypes, multiprocessing, os, signal, sys, time
from clouds.commands.entry import user_errors
from clouds.utils import signals

def say(line):
    os.write(1, f"{line}\\n".encode())  # a line of several processes stays whole

def loop(seconds=100):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if name := signals.stop_requested():
            raise signals.Stopped(f"Stopped by {name}.")
        time.sleep(0.05)

def rank():
    with signals.stop_on_signals(for_parent=True):
        say(f"rank {os.getpid()}")
        try:
            loop()
        except signals.Stopped as stopped:
            time.sleep(2)  # a second signal would end it meanwhile
            say(f"rank: {stopped}")

def worker(how):
    if how == "spawn":
        signals.leave_signals_to_parent()
    say(f"worker {os.getpid()}")
    time.sleep(1)
    say("worker done")

@user_errors
def main():
    word = sys.argv[1]
    if word == "outside":
        say("ready")
        time.sleep(100)
    with signals.stop_on_signals():
        if word in ("fork", "spawn"):
            process = multiprocessing.get_context(word).Process(target=worker, args=(word,))
            process.start()
            process.join()
            loop()
        elif word in ("rank", "early"):
            if word == "early":  # before there is a process that could get it
                os.kill(os.getpid(), signal.SIGUSR1)
                while signals.stop_requested() is None:
                    time.sleep(0.01)
            with signals.signals_delayed():
                process = multiprocessing.get_context("spawn").Process(target=rank)
                process.start()
            with signals.signals_passed_on():
                process.join()
                loop()
        elif word == "busy":
            say("ready")
            time.sleep(100)
        elif word == "stuck":  # in a library, where Python calls no handler
            mutex = ctypes.create_string_buffer(64)
            say("ready")
            for _ in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(mutex)
        elif word == "leave":  # with a worker that still runs
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(40,), daemon=True).start()
        say("ready")
        loop()

if __name__ == "__main__":
    sys.exit(main())
"""


@contextmanager
def program(tmp_path: Path, word: str, *prefix: str) -> Iterator["subprocess.Popen[str]"]:
    """The program in a process group of its own, which is killed at the end."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen(
        [*prefix, sys.executable, str(script), word],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def ending(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, and what is left on stdout and stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("name", NAMES)
def test_the_first_signal_asks_to_stop(tmp_path: Path, name: str) -> None:
    with program(tmp_path, "wait") as process:
        assert line(process) == "ready"
        process.send_signal(signal.Signals[name])
        code, _, err = ending(process)
    assert code == 75
    assert err == (
        f"{name}: the command finishes its step, saves and stops; a second signal ends it at once.\n"
        f"Stopped by {name}.\n"
    )


@pytest.mark.parametrize("word", ["busy", "stuck"])
def test_a_second_signal_ends_at_once(tmp_path: Path, word: str) -> None:
    with program(tmp_path, word) as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("SIGTERM: ")
        process.send_signal(signal.SIGTERM)  # at the same moment: passed on by a launcher
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        assert ending(process) == (130, "", "")


def test_elsewhere_an_interrupt_is_what_it_was(tmp_path: Path) -> None:
    with program(tmp_path, "outside") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert ending(process) == (130, "", "error: interrupted.\n")


def test_nohup(tmp_path: Path) -> None:
    with program(tmp_path, "wait", "nohup") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGUSR1)
        assert ending(process)[0] == 75


@pytest.mark.parametrize("word", ["fork", "spawn"])
def test_workers_leave_signals_to_their_parent(tmp_path: Path, word: str) -> None:
    """As from a terminal, which sends a signal to all processes of the group."""
    with program(tmp_path, word) as process:
        assert line(process).startswith("worker ")
        for name in NAMES:
            os.killpg(process.pid, signal.Signals[name])
        code, out, err = ending(process)
    assert (code, out) == (75, "worker done\n")
    assert err.splitlines()[1].startswith("Stopped by SIG")


def test_the_command_ends_before_its_workers(tmp_path: Path) -> None:
    with program(tmp_path, "leave") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 30
        assert process.stderr is not None
        assert process.stderr.readline().startswith("SIGTERM: ")
        assert process.stderr.readline() == "Stopped by SIGTERM.\n"
        assert time.monotonic() < end


def test_the_signal_is_passed_on(tmp_path: Path) -> None:
    """To a process that does not end with a second one, as it comes from a terminal."""
    with program(tmp_path, "rank") as process:
        pid = int(line(process).removeprefix("rank "))
        process.send_signal(signal.SIGUSR1)
        time.sleep(1.5)
        os.kill(pid, signal.SIGINT)
        code, out, err = ending(process)
    assert (code, out) == (75, "rank: Stopped by SIGUSR1.\n")
    assert err.splitlines()[1:] == ["Stopped by SIGUSR1."]


def test_a_signal_before_the_processes_start_is_passed_on(tmp_path: Path) -> None:
    with program(tmp_path, "early") as process:
        assert line(process).startswith("rank ")
        code, out, err = ending(process)
    assert (code, out) == (75, "rank: Stopped by SIGUSR1.\n")
    assert err.splitlines()[1:] == ["Stopped by SIGUSR1."]


def test_the_exit_code_without_a_reader(tmp_path: Path) -> None:
    """Ctrl-C also ends ``tee``, to which both streams go."""
    with program(tmp_path, "wait") as process:
        assert line(process) == "ready"
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 75
        process.stdout = process.stderr = None


def test_the_context_leaves_no_trace() -> None:
    before = [signal.getsignal(number) for number in stop_signals()]
    threads = threading.active_count()
    with stop_on_signals(), stop_on_signals():
        assert stop_requested() is None
        signal.raise_signal(signal.SIGUSR1)
        end = time.monotonic() + 60
        while stop_requested() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert stop_requested() == "SIGUSR1"
    assert stop_requested() is None
    assert [signal.getsignal(number) for number in stop_signals()] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_another_thread_handles_no_signals() -> None:
    def work() -> None:
        with stop_on_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_stopped_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @user_errors
    def main() -> int:
        raise Stopped("Stopped after iteration 7.")

    assert main() == 75
    assert capsys.readouterr().err == "Stopped after iteration 7.\n"
