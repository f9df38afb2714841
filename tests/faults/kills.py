"""Jobs that are interrupted at random moments and continued until they are done, and what that changed."""

import random
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.jobs import Job, Result, differences, write_jobs
from tests.faults.processes import Event, Outcome, Processes, Seconds, When

MOST_KILLS = 3  # interruptions of one job

# A stop adds checkpoints, and the oldest are removed. Those of both runs must be equal.
_PERIODIC = r"model_\d+\.pth"

STOPPED = 75  # exit code of a command that a signal has stopped
ENDS = {  # exit codes by signal; 0: the signal came too late. A SIGTERM during the imports ends a process at once.
    signal.SIGKILL: {-signal.SIGKILL, 0},
    signal.SIGTERM: {STOPPED, -signal.SIGTERM, 0},
    signal.SIGINT: {STOPPED, 130, 0},
}


@dataclass(frozen=True)
class Kill:
    """Signal to one start of a job."""

    when: When
    number: int = signal.SIGKILL
    is_script: bool = False


@dataclass
class Verdict:
    """Comparison of an interrupted job with an undisturbed one.

    Attributes:
        job: name of the job.
        kills: number of starts that ended by a signal.
        starts: number of starts in all.
        lost: names of files that the undisturbed job has and this one has not, or a description of the failure.
        wrong: names of files that differ, or that only this job has, and unexpected exit codes.
        orphans: command lines of the processes that outlived a start.
    """

    job: str
    kills: int = 0
    starts: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.wrong or self.orphans)

    def compare(self, undisturbed: Result, result: Result) -> None:
        """Add what the result of this job lacks and has wrong."""
        for file in differences(undisturbed, result):
            if file not in result:
                self.lost += [] if re.fullmatch(_PERIODIC, file) else [file]
            elif file in undisturbed or not re.fullmatch(_PERIODIC, file):
                self.wrong.append(file)


@dataclass(frozen=True)
class Reference:
    """Undisturbed run of a job, in a fork of the template: what it wrote, and how long it took."""

    result: Result
    changes: int
    seconds: float


class Trials:
    """Runs jobs, undisturbed and interrupted.

    Args:
        folder: new folder for inputs and results.
        processes: starts the commands.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self.jobs, self.environment = write_jobs(folder / "inputs")
        self.references: dict[str, Reference] = {}
        self._count = 0

    def reference(self, name: str) -> Reference:
        """Return the undisturbed run of a job, which is run at the first call."""
        if name not in self.references:
            # YAML wraps a long path with a space.
            job, folder = self.jobs[name], self.folder / "undisturbed" / name.replace(" ", "-")
            if name == "prediction":
                self.reference("warm-up")
                shutil.copy(self.folder / "undisturbed/warm-up/model_final.pth", self.folder / "inputs/warm-up.pth")
            job.prepare(folder)
            event = None if isinstance(job.main, Path) else Event(0, folder)
            outcome = self.processes.run(job.main, job.argv(folder), environment=self.environment, event=event)
            if outcome.code or outcome.orphans:
                raise RuntimeError(f"The undisturbed {name} fails: {outcome}")
            self.references[name] = Reference(job.result(folder), outcome.changes, outcome.seconds)
        return self.references[name]

    def random_kills(self, name: str, rng: random.Random) -> list[Kill]:
        """Draw signals to a job: before a change of files, or after a time; SIGKILL or SIGTERM."""
        reference = self.reference(name)
        kills = []
        for _ in range(rng.randint(1, MOST_KILLS)):
            event = Event(rng.randint(1, reference.changes), Path())
            seconds = Seconds(rng.uniform(0, reference.seconds))
            kills.append(Kill(rng.choice((event, seconds)), rng.choice((signal.SIGKILL, signal.SIGTERM))))
        return kills

    def interrupt(self, name: str, kills: list[Kill]) -> Verdict:
        """Run a job with a start for each signal, then once more until it is done, and compare its results.

        Args:
            name: name of the job.
            kills: signals; the folder of an `Event` is that of the job's results.
        """
        job, reference = self.jobs[name], self.reference(name)
        folder = self.folder / "interrupted" / f"{self._count}-{name.replace(' ', '-')}"
        self._count += 1
        job.prepare(folder)
        verdict = Verdict(name)
        for kill in [*kills, None]:
            outcome = self._start(job, folder, kill, is_first=not verdict.starts)
            verdict.starts += 1
            verdict.orphans += outcome.orphans
            if outcome.code == 0 and kill:
                continue  # the signal came too late; the job is done, and doing it again must change nothing
            verdict.kills += kill is not None
            if outcome.code not in (ENDS[signal.Signals(kill.number)] if kill else {0}):
                verdict.wrong.append(f"exit code {outcome.code} after {kill}: {outcome.output[-3000:]}")
        verdict.compare(reference.result, job.result(folder))
        if verdict.is_good:
            shutil.rmtree(folder)
        return verdict

    def _start(self, job: Job, folder: Path, kill: Kill | None, *, is_first: bool) -> Outcome:
        argv = [*(() if is_first else job.resume), *job.argv(folder)]
        if kill and kill.is_script:
            argv += job.script_argv
        options: Mapping = {"environment": self.environment}
        if kill is None:
            return self.processes.run(job.main, argv, **options)
        when = Event(kill.when.number, folder) if isinstance(kill.when, Event) else kill.when
        main = job.script if kill.is_script else job.main
        return self.processes.run_and_kill(main, argv, when, kill.number, **options)
