"""The work of the command ``clouds experiment``."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clouds.errors import UserError
from clouds.experiments.experiment import Experiment, conclude, set_up
from clouds.experiments.jobs import Job
from clouds.experiments.plan import PLAN_FILE
from clouds.experiments.plan_file import choose_rows, read_plan, write_plan
from clouds.experiments.results import Results
from clouds.experiments.runner import run_jobs, worker_devices
from clouds.experiments.slurm import write_arrays
from clouds.utils.atomic import make_folder
from clouds.utils.signals import stop_on_signals


def run_command(args: argparse.Namespace) -> None:
    """Do what the flags ask for.

    Args:
        args: parsed command line of `clouds.commands.experiment`.

    Raises:
        UserError: the plan is invalid, or a job failed.
        Stopped: a signal has asked to stop.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    experiment = _experiment(args)
    if args.list:
        sys.stdout.write(listing(experiment.jobs))
    elif args.report:
        conclude(experiment)
    elif args.slurm:
        script = write_arrays(experiment, args.slurm, args.sbatch, gpus_per_job=args.gpus_per_job)
        sys.stdout.write(f"Submit the jobs with: bash {script}\n")
    elif args.only:
        run_only(experiment, args.only, args)
    else:
        run_experiment(experiment, workers=args.workers, threads=args.threads, gpus_per_job=args.gpus_per_job)


def run_experiment(
    experiment: Experiment, *, workers: int | None = None, threads: int | None = None, gpus_per_job: int = 1
) -> Results:
    """Run the jobs that are not done, then write tables and report of everything that is done.

    Args:
        experiment: the experiment.
        workers: number of jobs at a time; default: one for each group of GPUs, or without a GPU one for each core, at
            most 4.
        threads: number of threads of each job; default: an equal share of the cores.
        gpus_per_job: number of GPUs of each job.

    Returns:
        The scores.

    Raises:
        UserError: a job failed; the report has the others.
        Stopped: a signal has asked to stop.
    """
    devices = worker_devices(gpus_per_job)
    workers = workers or len(devices) or min(os.cpu_count() or 1, 4)
    make_folder(experiment.plan.output)
    write_plan(experiment.plan, experiment.plan.output / PLAN_FILE)
    try:
        with stop_on_signals():
            run_jobs(experiment.jobs, workers=workers, threads=threads, devices=devices)
    except UserError:
        if any(job.is_done and job.is_evaluated for job in experiment.jobs):
            conclude(experiment, workers=workers)
        raise
    return conclude(experiment, workers=workers)


def run_only(experiment: Experiment, name: str, args: argparse.Namespace) -> None:
    """Run one job, for a task of a job array.

    Raises:
        UserError: there is no such job, it needs one that is not done, or it failed.
        Stopped: a signal has asked to stop.
    """
    job = experiment.job(name)
    for need in job.needs:
        if not experiment.job(need).is_done:
            raise UserError(f"{name} needs {need}, which is not done: run it first, with --only '{need}'.")
    devices = worker_devices(args.gpus_per_job)
    threads = args.threads or int(os.environ.get("SLURM_CPUS_PER_TASK") or 0) or None
    with stop_on_signals():
        run_jobs([replace(job, needs=())], threads=threads, devices=devices)


def listing(jobs: Sequence[Job]) -> str:
    """Return a line for each job: its name, its state, its steps, its folder."""
    states = [(job.name, _state(job), f"{job.steps_done()}/{job.steps}", _shown(job.folder)) for job in jobs]
    widths = [max(map(len, column)) for column in zip(*states, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in states)
    return "".join(f"{line}\n" for line in lines)


def _state(job: Job) -> str:
    if job.is_done:
        return "done"
    return "begun" if job.steps_done() else "open"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _experiment(args: argparse.Namespace) -> Experiment:
    """The plan with the changes of the command line."""
    plan = read_plan(args.plan)
    if args.rows:
        plan = choose_rows(plan, args.rows)
    plan = replace(plan, seeds=args.seeds or plan.seeds, output=args.output or plan.output)
    return set_up(plan, args.opts, gpus_per_job=args.gpus_per_job)
