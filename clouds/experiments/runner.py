"""Run the jobs of an experiment as processes, several at a time; jobs that are done are skipped.

An experiment can be interrupted at any time: the same call continues with the jobs that are not done.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from clouds.errors import UserError
from clouds.experiments.jobs import Job
from clouds.utils.signals import EXIT_CODE, Stopped, stop_here

logger = logging.getLogger(__name__)

_POLL = 1.0  # seconds
_LOGGED = 30.0  # seconds between two lines of progress where stderr is a file
_LISTED = 8  # failed jobs that a message names
_DEVICES = "CUDA_VISIBLE_DEVICES"


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int = 1,
    threads: int | None = None,
    working_folder: Path | None = None,
    devices: Sequence[str] = (),
) -> None:
    """Run the jobs that are not done, each after those it needs, and show their progress.

    A job that fails does not end the others, except those that need it. A job that another process has started, such as
    a call that has been killed since, is waited for.

    Args:
        jobs: jobs in any order.
        workers: number of jobs that run at the same time.
        threads: number of threads of each job; default an equal share of the cores.
        working_folder: working folder of the commands; default that of this process.
        devices: values of `CUDA_VISIBLE_DEVICES`; each worker uses one of them. Empty: the variable stays.

    Raises:
        UserError: a job failed, or cannot be started; everything else is done.
        Stopped: a signal has asked to stop, or a job was stopped. The jobs that are running get SIGTERM, on which the
            commands of `clouds` save their work.
        ValueError: the jobs need one that is not among them, or one another.
    """
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    pool = _Pool(jobs, workers, {"OMP_NUM_THREADS": str(threads)}, working_folder, devices)
    bar = tqdm(
        total=sum(job.steps for job in jobs),
        unit="step",
        desc="experiment",
        smoothing=0.05,
        mininterval=_POLL if sys.stderr.isatty() else _LOGGED,
    )
    try:
        while pool.waiting or pool.running:
            stop_here("jobs that are done stay done, and the same command goes on with the others")
            pool.start_ready()
            time.sleep(_POLL)
            pool.collect()
            bar.set_postfix_str(", ".join(pool.running), refresh=False)
            bar.update(sum(job.steps if job.name in pool.done else job.steps_done() for job in jobs) - bar.n)
    finally:
        bar.close()
        pool.terminate()
    if pool.failed:
        raise UserError(_failures(pool.failed, len(pool.skipped)))


class _Pool:
    """Jobs that wait, run, are done or have failed."""

    def __init__(
        self,
        jobs: Sequence[Job],
        workers: int,
        variables: Mapping[str, str],
        working_folder: Path | None,
        devices: Sequence[str],
    ) -> None:
        self.waiting = [job for job in jobs if not job.is_done]
        self.running: dict[str, _Running] = {}
        self.done = {job.name for job in jobs} - {job.name for job in self.waiting}
        self.failed: dict[str, str] = {}
        self.skipped: list[str] = []
        self._folder = working_folder
        self._slots = list(range(workers))
        self._environments = [
            {**os.environ, **variables, **({_DEVICES: devices[slot % len(devices)]} if devices else {})}
            for slot in range(workers)
        ]
        self._noted: set[str] = set()

    def start_ready(self) -> None:
        """Start jobs whose needs are done, as many as there are free workers."""
        self._skip()
        ready = [job for job in self.waiting if self.done.issuperset(job.needs)]
        if self.waiting and not ready and not self.running:
            job = self.waiting[0]
            raise ValueError(f"jobs: {job.name} needs {', '.join(job.needs)}, which never gets done")
        for job in ready:
            if self._slots and not self._is_elsewhere(job):
                self.waiting.remove(job)
                if job.is_done:  # by another process, meanwhile
                    self.done.add(job.name)
                else:
                    self._start(job)

    def collect(self) -> None:
        """Take the jobs that have ended out of `running`."""
        for name, run in list(self.running.items()):
            code = run.process.poll()
            if code is None:
                continue
            if code == EXIT_CODE:
                raise Stopped(f"{name} was stopped by a signal: the same command goes on with it.")
            del self.running[name]
            self._slots.insert(0, run.slot)
            if code:
                self._fail(run.job, run.job.reason(code))
                continue
            run.job.finish(time.perf_counter() - run.began)
            self.done.add(name)
            logger.info("%s: done in %.0f s", name, run.job.seconds)

    def terminate(self) -> None:
        """Let the jobs that are running save their work and end."""
        for run in self.running.values():
            run.process.terminate()
        for run in self.running.values():
            run.process.wait()

    def _start(self, job: Job) -> None:
        try:
            process = job.start(self._environments[self._slots[0]], self._folder)
        except UserError as error:
            self._fail(job, str(error))
            return
        self.running[job.name] = _Running(job, process, self._slots.pop(0), time.perf_counter())
        logger.info("%s: started, %s", job.name, job.console)

    def _fail(self, job: Job, reason: str) -> None:
        self.failed[job.name] = reason
        logger.error("%s failed: %s", job.name, reason)

    def _skip(self) -> None:
        """Give up the jobs that need one that has failed, directly or through others."""
        lost = {*self.failed, *self.skipped}
        while blocked := [job for job in self.waiting if lost.intersection(job.needs)]:
            for job in blocked:
                self.waiting.remove(job)
                self.skipped.append(job.name)
                lost.add(job.name)

    def _is_elsewhere(self, job: Job) -> bool:
        """Whether a job runs that another process has started."""
        if not job.is_elsewhere:
            return False
        if job.name not in self._noted:
            self._noted.add(job.name)
            logger.info("%s: another process is at work in %s, which is waited for", job.name, job.folder)
        return True


class _Running(NamedTuple):
    """A job that runs: its process, the number of its worker, and when it began in seconds of `time.perf_counter`."""

    job: Job
    process: subprocess.Popen[bytes]
    slot: int
    began: float


def worker_devices(gpus_per_job: int = 1) -> list[str]:
    """Return the values of `CUDA_VISIBLE_DEVICES` for jobs with GPUs of their own; none without a GPU.

    Args:
        gpus_per_job: number of GPUs of a job.

    Raises:
        UserError: there are GPUs, but fewer.
    """
    named = os.environ.get(_DEVICES)
    count = torch.cuda.device_count()
    gpus = named.split(",")[:count] if named else [str(index) for index in range(count)]
    if not gpus:
        return []
    if gpus_per_job > len(gpus):
        raise UserError(f"--gpus-per-job is {gpus_per_job}, but this machine has {len(gpus)}: give a lower number.")
    return [",".join(gpus[at : at + gpus_per_job]) for at in range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)]


def _failures(failed: Mapping[str, str], skipped: int) -> str:
    """One sentence about all jobs that have failed."""
    rest = f", and {skipped} that need {'it' if len(failed) == 1 else 'them'} did not start" if skipped else ""
    (name, reason), *others = failed.items()
    if others:
        listed = ", ".join(name for name, _ in others[:_LISTED]) + (", ..." if len(others) > _LISTED else "")
        return f"{len(failed)} jobs failed{rest}: {name} ({reason.rstrip('.')}), and {listed}."
    return f"{name} failed{rest}: {reason.rstrip('.')}."
