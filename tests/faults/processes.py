"""Commands in child processes that are killed, and the processes that are left behind.

A command runs as a new process, or in a fork of a *template*: a process that has imported torch and the commands, and
has done nothing else, so that a child begins after a fraction of a second. The template has one thread, and so have its
children at first: no thread or lock is lost in the fork. The results of both are equal bit by bit, see
`test_random_kills.py`.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.faults import child as child_side
from tests.faults.child import Event

ROOT = Path(__file__).resolve().parents[2]
PROC = Path("/proc")
MARK = "CLOUDS_TEST_PROCESS"
"""Environment variable of a command that was started as a new process; its value is inherited by all descendants."""

TIMEOUT = 300.0  # seconds in which a command of a test ends, also on a machine under load
GRACE = 30.0  # seconds in which the processes of a command end after it


@dataclass(frozen=True)
class Seconds:
    """Moment some seconds after the start of a command."""

    seconds: float


@dataclass(frozen=True)
class Line:
    """Moment at which the log of a command has `count` lines in which a regular expression is found."""

    pattern: str
    count: int = 1


When = Seconds | Line | Event
Main = Callable[..., int | None] | Path


@dataclass(frozen=True)
class Outcome:
    """End of a command.

    Attributes:
        code: exit code; the negative number of the signal that ended it.
        output: stdout and stderr.
        orphans: command lines of the processes that outlived it. They have been killed.
        seconds: time it took.
        changes: number of changes of files that its main process made; 0 if it was killed or was no fork.
    """

    code: int
    output: str
    orphans: list[str]
    seconds: float
    changes: int = 0


class Child:
    """Running command, started by `Processes.start`.

    Attributes:
        pid: id of its process, and of its session.
        log: file with its stdout and stderr.
    """

    def __init__(self, process: Any, log: Path, mark: str) -> None:
        self._process, self._mark = process, mark
        self._has_ended = False
        self.pid: int = process.pid
        self.log = log
        self.began = time.perf_counter()

    @property
    def code(self) -> int | None:
        """Exit code; None while the command runs."""
        return self._process.poll() if isinstance(self._process, subprocess.Popen) else self._process.exitcode

    def send(self, number: int) -> None:
        """Send a signal to the main process, if it still runs."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, when: Seconds | Line, timeout: float = TIMEOUT) -> bool:
        """Wait for a moment; returns whether it came before the end of the command."""
        if isinstance(when, Seconds):
            self._join(max(0.0, when.seconds - (time.perf_counter() - self.began)))
            return self.code is None
        end = time.perf_counter() + timeout
        while self.code is None:
            if sum(bool(re.search(when.pattern, line)) for line in self.output().splitlines()) >= when.count:
                return True
            if time.perf_counter() > end:
                raise TimeoutError(f"{when} is not in the log after {timeout:.0f} s:\n{self.output()}")
            time.sleep(0.02)
        return False

    def finish(self, timeout: float = TIMEOUT, grace: float = GRACE) -> Outcome:
        """Wait for the end of the command and of all its processes.

        Raises:
            TimeoutError: the command still runs. It has been killed.
        """
        self._join(timeout)
        if (code := self.code) is None:
            self.end()
            raise TimeoutError(f"The command still runs after {timeout:.0f} s:\n{self.output()}")
        seconds = time.perf_counter() - self.began
        end = time.perf_counter() + grace
        while (left := self.processes()) and time.perf_counter() < end:
            time.sleep(0.02)
        self.end()
        changes = self.log.with_name(f"{self.log.name}.changes")
        return Outcome(
            code, self.output(), list(left.values()), seconds, int(changes.read_text() or 0) if changes.exists() else 0
        )

    def processes(self) -> dict[int, str]:
        """Return the command lines of all living processes of this command by process id."""
        found = {}
        mark = f"{MARK}={self._mark}".encode()
        for folder in PROC.glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                belongs = int(session) == self.pid or mark in (folder / "environ").read_bytes().split(b"\0")
                if belongs and state not in "ZX":
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(folder.name)] = words.decode(errors="replace").strip()
        return found

    def end(self) -> None:
        """Kill all processes of the command. Later calls do nothing: its process id may be that of another process."""
        while not self._has_ended and (left := self.processes()):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._join(0.02)
        self._join(TIMEOUT)
        self._has_ended = True

    def _join(self, timeout: float) -> None:
        if isinstance(self._process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        else:
            self._process.join(timeout)


class Processes:
    """Starts commands, and ends them all in the end.

    Args:
        folder: existing folder for the logs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Child] = []

    def start(
        self,
        main: Main,
        argv: Sequence[Any] = (),
        *,
        environment: Mapping[str, str] | None = None,
        event: Event | None = None,
        number: int = signal.SIGKILL,
    ) -> Child:
        """Start a command.

        Args:
            main: main function of a command, a function of a module, which is called in a fork of the template; or the
                path of a script, which runs as a new process.
            argv: its arguments. For a script, words; ``python script argv...``
            environment: additional environment variables.
            event: moment at which a fork sends itself the signal `number`.
            number: number of a signal.
        """
        log = self._folder / f"{len(self._started)}.log"
        environment, mark = {"OMP_NUM_THREADS": "1", **(environment or {})}, uuid.uuid4().hex
        if isinstance(main, Path):
            assert event is None, "only a fork can count its changes of files"
            path = os.pathsep.join([environment.get("PYTHONPATH", ""), str(ROOT)])
            variables = {**os.environ, **environment, MARK: mark, "PYTHONPATH": path}
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, str(main), *map(str, argv)],
                    env=variables, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True,
                    preexec_fn=_listen,  # background jobs of a shell ignore SIGINT
                )  # fmt: skip
        else:
            event = event or Event(0, self._folder)
            arguments = (main, list(argv), log, {**environment, MARK: mark}, event, number)
            process = multiprocessing.get_context("forkserver").Process(target=child_side.run, args=arguments)
            process.start()
        started = Child(process, log, mark)
        self._started.append(started)
        return started

    def run(self, main: Main, argv: Sequence[Any] = (), **options: Any) -> Outcome:
        """Start a command and wait for its end; see `start`."""
        return self.start(main, argv, **options).finish()

    def run_and_kill(
        self, main: Main, argv: Sequence[Any], when: When, number: int = signal.SIGKILL, **options: Any
    ) -> Outcome:
        """Start a command, send a signal to its main process, and wait for its end.

        Args:
            main: see `start`.
            argv: see `start`.
            when: moment of the signal. A command that ends earlier gets none. `Event` is for forks only.
            number: number of the signal.
            options: see `start`.
        """
        if isinstance(when, Event):
            return self.run(main, argv, event=when, number=number, **options)
        started = self.start(main, argv, **options)
        if started.wait_for(when):
            started.send(number)
        return started.finish()

    def end(self) -> None:
        """Kill all processes of all commands."""
        for started in self._started:
            started.end()


@contextlib.contextmanager
def template() -> Iterator[None]:
    """Start the template process, and end it in the end.

    It is the fork server of `multiprocessing`, with the commands imported.
    """
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "PYTHONPATH")}
    os.environ["OMP_NUM_THREADS"] = "1"  # numpy's and torch's threads would be lost in a fork
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), before["PYTHONPATH"] or ""])
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload([child_side.__name__, "tests.faults.jobs"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    try:
        yield
    finally:
        # It holds nothing, and its interpreter would take seconds to end.
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        forkserver._forkserver._stop()


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
