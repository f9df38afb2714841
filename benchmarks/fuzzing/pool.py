"""Worker processes that read inputs; one that hangs or crashes is reported and replaced."""

import faulthandler
import logging
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from fuzzing.inputs import KINDS
from fuzzing.verdict import Verdict, judge

_MEMORY = 6 << 30  # bytes of address space that an input may add
_RENEWED = 500  # inputs after which a process is replaced: it keeps files open and memory
_FILE = 1 << 28  # bytes of the largest file that an input may write


class Case(NamedTuple):
    """Identifies an input; the same case always gives the same input."""

    kind: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.seed}-{self.number}"


class Outcome(NamedTuple):
    """Verdict on a case, and the seconds that it took."""

    case: Case
    verdict: Verdict
    seconds: float


def run_case(case: Case, folder: Path, scratch: Path) -> Outcome:
    """Write the input of a case into an empty folder, read it and judge.

    Args:
        case: the case.
        folder: folder that does not exist yet. It is left as it is, for a look at what failed.
        scratch: folder for the valid files that inputs are made from.
    """
    kind = KINDS[case.kind]
    folder.mkdir(parents=True)
    neighbors = _neighbors(folder)
    rng = random.Random(str(case))
    began = time.perf_counter()
    with mock.patch.object(tempfile, "tempdir", str(scratch)):
        arguments = kind.write(folder, rng)
    with mock.patch.object(tempfile, "tempdir", str(folder)):  # for the code that reads the input
        verdict = judge(lambda: kind.read(folder, arguments), folder, kind.names)
    seconds = time.perf_counter() - began
    if verdict.what != "outside" and (
        new := _neighbors(folder) - neighbors
    ):  # written by code that Python does not see
        verdict = Verdict("outside", f"created {', '.join(sorted(new))}", "created")
    return Outcome(case, verdict, seconds)


def run_cases(cases: Sequence[Case], *, workers: int, timeout: float, failures: Path) -> Iterator[Outcome]:
    """Run cases in worker processes and yield the outcomes as they come.

    Args:
        cases: the cases.
        workers: number of processes.
        timeout: seconds after which an input counts as a hang.
        failures: folder to which the inputs of failures are copied, each with its verdict.
    """
    remaining = iter(cases)
    with tempfile.TemporaryDirectory(prefix="clouds-fuzz-") as scratch:
        active = [_Worker(Path(scratch) / f"worker{number}", timeout) for number in range(workers)]
        try:
            active = [worker for worker in active if worker.give(next(remaining, None))]
            while active:
                ready = wait([worker.connection for worker in active], timeout=1)
                for worker in [each for each in active if each.connection in ready or each.is_late]:
                    outcome = worker.take()
                    if not outcome.verdict.is_right:
                        worker.keep(outcome, failures)
                    yield outcome
                    if not worker.give(next(remaining, None)):
                        active.remove(worker)
        finally:
            for worker in active:
                worker.stop()


@dataclass
class _Worker:
    folder: Path
    timeout: float
    case: Case | None = None
    began: float = 0.0
    process: multiprocessing.process.BaseProcess | None = None
    given: int = 0
    connection: Connection = field(init=False)

    def give(self, case: Case | None) -> bool:
        """Start a case; None ends the process. Returns whether there was a case."""
        if case is None:
            self.stop()
            return False
        if self.given == _RENEWED:
            self.stop()
        if self.process is None:
            # Forked: the modules are loaded already.
            self.connection, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.get_context("fork").Process(
                target=_work, args=(theirs, self.folder, self.timeout), daemon=True
            )
            self.process.start()
            theirs.close()
            self.given = 0
        self.given += 1
        self.case, self.began = case, time.monotonic()
        self.connection.send(case)
        return True

    @property
    def is_late(self) -> bool:
        """Whether even the watchdog inside the process has failed."""
        return time.monotonic() - self.began > 2 * self.timeout + 30

    def take(self) -> Outcome:
        """Return the outcome of the case, or what ended the process."""
        assert self.case is not None
        try:
            if self.connection.poll():
                outcome: Outcome = self.connection.recv()
                return outcome
        except (EOFError, OSError):
            pass  # the process has ended
        self.stop()
        log = self.folder / "console.txt"
        said = log.read_text(encoding="utf-8", errors="replace")[-6000:] if log.is_file() else ""
        hangs = "Timeout (" in said or self.is_late
        lines = [line.strip() for line in said.splitlines() if "/clouds/" in line]
        place = lines[0] if lines else ""
        return Outcome(self.case, Verdict("hang" if hangs else "crash", said, place), time.monotonic() - self.began)

    def keep(self, outcome: Outcome, failures: Path) -> None:
        """Copy the input of a failure, with its verdict."""
        target = failures / str(outcome.case)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        (target / "verdict.txt").write_text(
            f"{outcome.verdict.what}: {outcome.verdict.place}\n\n{outcome.verdict.detail}\n",
            encoding="utf-8",
            errors="backslashreplace",
        )
        source = self.folder / "case" / str(outcome.case)
        if source.is_dir():  # it is missing if the process ended before
            shutil.copytree(source, target / "input", symlinks=True, ignore_dangling_symlinks=True)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.connection.close()
            self.process.kill()
            self.process.join()
            self.process = None


def _work(connection: Connection, folder: Path, timeout: float) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    console = os.open(folder / "console.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    faulthandler.enable(console)
    faulthandler.dump_traceback_later(timeout, exit=True, file=console)
    _confine(folder, console)
    while True:
        faulthandler.cancel_dump_traceback_later()
        try:
            case = connection.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(timeout, exit=True, file=console)
        shutil.rmtree(folder / "case", ignore_errors=True)
        os.ftruncate(console, 0)
        connection.send(run_case(case, folder / "case" / str(case), folder.parent))


def _confine(folder: Path, console: int) -> None:
    """Send all output to a file, work in a folder, and limit memory and files."""
    for stream in (1, 2):
        os.dup2(console, stream)
    os.chdir(folder)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))


def _neighbors(folder: Path) -> set[str]:
    return {path.name for above in list(folder.parents)[:2] for path in above.iterdir()}
