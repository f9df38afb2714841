"""Trainings of which a single process is killed and that go on by themselves."""

import dataclasses
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.faults.kills import Trials, Verdict
from tests.faults.processes import ROOT, Line

WORKER, RANK = "worker of a loader", "rank under torchrun"
KINDS = (WORKER, RANK)


def add_jobs(trials: Trials) -> None:
    """Add the trainings to the jobs: one whose loader has two workers, and one of two ranks that torchrun restarts."""
    warm_up = trials.jobs["warm-up"]
    torchrun = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "2", str(ROOT / "train_net.py"))

    def argv(folder: Path) -> list[str]:
        return [*warm_up.argv(folder), "SOLVER.MAX_ITER", "20"]

    trials.jobs[WORKER] = dataclasses.replace(warm_up, argv=lambda out: [*argv(out), "DATALOADER.NUM_WORKERS", "2"])
    trials.jobs[RANK] = dataclasses.replace(
        warm_up, main=Path(sys.executable).with_name("torchrun"), argv=lambda out: [*torchrun, *argv(out)]
    )


def kill_one(trials: Trials, name: str, rng: random.Random) -> Verdict:
    """Kill one process of a training after a random number of milliseconds, and compare with an undisturbed one.

    Args:
        trials: runs the jobs; `add_jobs` has been called.
        name: one of `KINDS`.
        rng: chooses the moment and the process.
    """
    job, reference = trials.jobs[name], trials.reference(name)
    folder = trials.folder / "restarts" / f"{name.replace(' ', '-')}-{rng.random()}"
    job.prepare(folder)
    verdict = Verdict(name, starts=1)
    child = trials.processes.start(job.main, job.argv(folder), environment=trials.environment)
    child.wait_for(Line("Starting training"))
    time.sleep(rng.uniform(0, 0.5))
    parts = [pid for pid, words in child.processes().items() if pid != child.pid and _is_part(name, words)]
    if parts:
        os.kill(rng.choice(sorted(parts)), signal.SIGKILL)
        verdict.kills = 1
    outcome = child.finish()
    verdict.orphans = outcome.orphans
    if outcome.code:
        verdict.wrong.append(f"exit code {outcome.code}: {outcome.output[-3000:]}")
    verdict.compare(reference.result, job.result(folder))
    return verdict


def _is_part(name: str, command_line: str) -> bool:
    helper = "resource_tracker" in command_line or "--nproc-per-node" in command_line
    return not helper and (name != RANK or "train_net.py" in command_line)
