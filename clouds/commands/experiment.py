"""The command ``clouds experiment``: run the trainings of a plan, compare their scores, and report them."""

import argparse
import os
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser, positive_int
from clouds.utils.arguments import seed as parse_seed

DESCRIPTION = """\
Run an experiment: several trainings with several seeds, their paired differences, and a report.

    %(prog)s plan.yaml                        trains every row with every seed, then writes tables and report
    %(prog)s plan.yaml --list                 prints the jobs, their state and their folders
    %(prog)s plan.yaml --rows joint --seeds 5 SOLVER.MAX_ITER 2000
    %(prog)s plan.yaml --slurm output/jobs --sbatch "--gres=gpu:1 --time=24:00:00"

GETTING_STARTED.md (Experiments) explains the file. Interrupted, the same command continues; jobs that are done are not
repeated. A job that fails ends only those that need it.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Parse the command line, then do what it asks for.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    run(parse_arguments(argv))
    return 0


def run(args: argparse.Namespace) -> None:
    """Run, list or report an experiment, or write its job arrays.

    Args:
        args: parsed command line, see `parse_arguments`.
    """
    from clouds.experiments.run import run_command

    run_command(args)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; ``opts`` has the KEY VALUE pairs."""
    parser = CommandParser(DESCRIPTION)
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="YAML file with the plan")
    add("--rows", type=_names, metavar="KEY,KEY", help="only these rows, and those that they start from")
    add("--seeds", type=parse_seeds, metavar="N", help="number of seeds, or seeds with commas (default: the plan's)")
    add("--output", type=Path, metavar="DIR", help="folder of the results (default: the plan's)")
    cores = min(os.cpu_count() or 1, 4)
    add(
        "--workers",
        type=positive_int,
        metavar="N",
        help=f"jobs at a time (default: one for each GPU; without a GPU one for each core, at most 4: {cores})",
    )
    add("--threads", type=positive_int, metavar="N", help="threads of each job (default: an equal share of the cores)")
    add("--gpus-per-job", type=positive_int, default=1, metavar="N", help="GPUs of each training (default: 1)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", "--dry-run", action="store_true", help="print the jobs and their state, run nothing")
    mode.add_argument("--report", action="store_true", help="write tables and report of the trainings that are done")
    mode.add_argument("--only", metavar="JOB", help="run one job, such as 'joint 2', whose needs are done; no report")
    mode.add_argument(
        "--slurm", type=Path, metavar="DIR", help="write job arrays for SLURM and a script to submit them"
    )
    add("--sbatch", default="", metavar="OPTIONS", help="options of sbatch for all jobs, with --slurm")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys for all rows")
    # Intermixed: the pairs at the end belong to no flag, although the plan stands before the flags.
    args = parser.parse_intermixed_args(argv)
    if len(args.opts) % 2:
        raise UserError(f"Config keys are given as KEY VALUE pairs, but {args.opts[-1]} has no value: add it.")
    if args.sbatch and not args.slurm:
        raise UserError("--sbatch has the options of job arrays: give it with --slurm DIR.")
    return args


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse a number of seeds, such as "5", or seeds, such as "1,7"; raises `argparse.ArgumentTypeError`."""
    if "," not in text:
        return tuple(range(1, positive_int(text) + 1))
    seeds = tuple(parse_seed(part) for part in text.split(",") if part)
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"must be different seeds, not {text!r}")
    return seeds


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
