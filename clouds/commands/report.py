"""The command ``clouds report``: print the final scores of runs as a table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser

DESCRIPTION = """\
Print the final scores of trainings and evaluations as a table in Markdown.

    %(prog)s output/gta/warmup output/gta/joint

RUN is an output folder. Its scores are those at the end of its newest training, or of its newest evaluation if there is
no training. Compare only rows of one protocol.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Print a row for each run and protocol.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    run(parse_arguments(argv).runs)
    return 0


def run(folders: Sequence[Path]) -> None:
    """Print the final scores in these output folders."""
    from clouds.engine.run.summary import format_summaries, summarize

    sys.stdout.write(format_summaries([each for folder in folders for each in summarize(folder)]) + "\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the folders."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a training")
    return parser.parse_args(argv)
