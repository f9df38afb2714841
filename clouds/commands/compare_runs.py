"""The command ``clouds compare``: say what differs between two trainings."""

import argparse
import sys
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser

DESCRIPTION = """\
Say what differs between two trainings.

    %(prog)s output/first output/second

A and B are output folders. The newest training of each is compared: settings, code, versions, machine, data, weights
and metrics. OUTPUT_DIR, times and process ids are left out. The exit code is 0 if nothing differs, 1 if something does,
and 2 for an error.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Compare two trainings and print a table of what differs.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code: 1 if something differs.
    """
    args = parse_arguments(argv)
    return run(args.a, args.b)


def run(a: Path, b: Path) -> int:
    """Print what differs between the trainings in two output folders; returns the exit code."""
    from clouds.engine.run.comparison import compare_runs, format_differences

    differences = compare_runs(a, b)
    sys.stdout.write(format_differences(differences, a, b) + "\n")
    return 1 if differences else 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the two folders."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("a", type=Path, metavar="A", help="output folder of a training")
    parser.add_argument("b", type=Path, metavar="B", help="output folder of another training")
    return parser.parse_args(argv)
