"""Run the jobs of an experiment as processes, several at a time; jobs that are done are skipped.

A job is one command with a folder of its own, which holds its results, its output (`console.txt`) and its state
(`job.json`). An experiment can be interrupted at any time: the same call continues with the jobs that are not done.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clouds.engine.run.metrics import newest_iteration, read_scores
from clouds.errors import UserError
from clouds.utils.atomic import append_file, make_folder, write_atomically, writing
from clouds.utils.folders import image_files
from clouds.utils.hashing import model_digest
from clouds.utils.json_files import parse_json
from clouds.utils.signals import EXIT_CODE, Stopped, stop_here
from clouds.utils.values import is_number

logger = logging.getLogger(__name__)

_STATE = "job.json"
_CONSOLE = "console.txt"
_POLL = 1.0  # seconds
_LOGGED = 30.0  # seconds between two lines of progress where stderr is a file


@dataclass(frozen=True)
class Job:
    """A command and the folder that it fills.

    Attributes:
        name: unique name.
        command: program and its arguments.
        folder: folder of its results; the arguments name it as well.
        needs: names of the jobs that must be done before.
        steps: amount of work, in iterations or images.
        inputs: digest of everything else that its results depend on: settings and files that the command only names.
        is_evaluated: whether the command is a training that is done only with an evaluation at the end of its
            `metrics.json`; without, the command is given again.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()
    steps: int = 1
    inputs: str = ""
    is_evaluated: bool = False

    @property
    def is_done(self) -> bool:
        """Whether this command has succeeded in this folder with these inputs."""
        if not self._owns_folder or math.isnan(self.seconds):
            return False
        return not self.is_evaluated or bool(read_scores(self.folder / "metrics.json"))

    @property
    def seconds(self) -> float:
        """Duration of the last run that succeeded; NaN if there is none."""
        seconds: Any = self._record().get("seconds")
        return float(seconds) if is_number(seconds) and seconds >= 0 else math.nan

    def begin(self) -> None:
        """Take the folder; one that another command or other inputs have filled is renamed to `<folder>.<n>`.

        A folder with a damaged `job.json` is renamed, too: the command that has filled it is unknown.

        Raises:
            WriteError: the folder cannot be renamed, created or written.
        """
        if (self.folder / _STATE).exists() and not self._owns_folder:
            aside = next(path for n in itertools.count(1) if not (path := Path(f"{self.folder}.{n}")).exists())
            logger.warning("%s is of another command or other inputs and becomes %s", self.folder, aside)
            with writing(aside):
                self.folder.rename(aside)
        make_folder(self.folder)
        self._write(None)

    def finish(self, seconds: float) -> None:
        """Record that the job is done and how long it took."""
        self._write(round(seconds, 1))

    def steps_done(self) -> int:
        """Return the number of finished steps, read from the files in the folder: 0..steps."""
        if self.is_done:
            return self.steps
        images = self.folder / "images"
        done = newest_iteration(self.folder / "metrics.json")
        return min(self.steps, done or len(image_files(images)))

    @property
    def _owns_folder(self) -> bool:
        record = self._record()
        return (record.get("command"), record.get("inputs")) == (list(self.command), self.inputs)

    def _record(self) -> dict[str, Any]:
        """The content of `job.json`; empty if there is none or it is damaged."""
        try:
            content = parse_json((self.folder / _STATE).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, seconds: float | None) -> None:
        record = {"command": list(self.command), "inputs": self.inputs, "seconds": seconds}
        write_atomically(self.folder / _STATE, json.dumps(record))


def run_jobs(
    jobs: Sequence[Job], *, workers: int = 1, threads: int | None = None, working_folder: Path | None = None
) -> None:
    """Run the jobs that are not done, each after those it needs, and show their progress.

    Args:
        jobs: jobs in any order.
        workers: number of jobs that run at the same time.
        threads: number of threads of each job; default an equal share of the cores.
        working_folder: working folder of the commands; default that of this process.

    Raises:
        UserError: a job failed. The jobs that are running are terminated; finished ones stay done.
        Stopped: a signal has asked to stop, or a job was stopped. The jobs that are running get SIGTERM, on which the
            commands of `clouds` save their work.
        ValueError: the jobs need one that is not among them, or one another.
    """
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    waiting = [job for job in jobs if not job.is_done]
    running: dict[Job, tuple[subprocess.Popen[bytes], float]] = {}
    done = {job.name for job in jobs} - {job.name for job in waiting}
    bar = tqdm(
        total=sum(job.steps for job in jobs),
        unit="step",
        desc="experiment",
        smoothing=0.05,
        mininterval=_POLL if sys.stderr.isatty() else _LOGGED,
    )
    try:
        while waiting or running:
            stop_here("jobs that are done stay done, and the same command goes on with the others")
            ready = [job for job in waiting if done.issuperset(job.needs)]
            if not ready and not running:
                raise ValueError(f"jobs: {waiting[0].name} needs {', '.join(waiting[0].needs)}, which never gets done")
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[job] = (_start(job, environment, working_folder), time.perf_counter())
                logger.info("%s: started, %s", job.name, job.folder / _CONSOLE)
            time.sleep(_POLL)
            for job, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                if process.returncode == EXIT_CODE:
                    raise Stopped(f"{job.name} was stopped by a signal: the same command goes on with it.")
                if process.returncode:
                    raise UserError(f"{job.name} failed: {_reason(job, process.returncode)}.")
                job.finish(time.perf_counter() - began)
                done.add(job.name)
                logger.info("%s: done in %.0f s", job.name, job.seconds)
            bar.set_postfix_str(", ".join(job.name for job in running), refresh=False)
            bar.update(sum(job.steps if job.name in done else job.steps_done() for job in jobs) - bar.n)
    finally:
        bar.close()
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def digest(*parts: str | Path) -> str:
    """Return a short digest of texts, files and folders of models (`model_digest`): 16 hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        else:
            found.update(model_digest(part).encode() if part.is_dir() else part.read_bytes())
    return found.hexdigest()[:16]


def _start(job: Job, environment: Mapping[str, str], folder: Path | None) -> subprocess.Popen[bytes]:
    job.begin()
    file = job.folder / _CONSOLE
    with append_file(file) as console:
        with writing(file):
            console.write(_heading(job).encode(errors="replace"))
            console.flush()
        try:
            return subprocess.Popen(
                job.command, stdout=console, stderr=subprocess.STDOUT, env=dict(environment), cwd=folder,
                start_new_session=True,  # it gets a signal once: from this process, and not from the terminal, too
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"{job.name} cannot be started: {error.filename} ({error.strerror}).") from error


def _reason(job: Job, exit_code: int) -> str:
    """Why a job failed: the signal that ended it, and the last line that it printed."""
    file = job.folder / _CONSOLE
    output = file.read_text(encoding="utf-8", errors="replace").rpartition(_heading(job))[2].strip()
    said = output.splitlines()[-1].removeprefix("error: ").rstrip(".") if output else "it printed nothing"
    if exit_code < 0:
        said = f"it was ended by {_signal_name(-exit_code)}, and at last: {said}"
    return f"{said} ({file} has it all)"


def _heading(job: Job) -> str:
    return f"$ {shlex.join(job.command)}\n"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
