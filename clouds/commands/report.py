"""The command ``clouds report``: scores of runs as a table, and a page with differences, classes and images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser

DESCRIPTION = """\
Print the final scores of trainings and evaluations as a table in Markdown, with the conclusion from their differences.

    %(prog)s output/gta/warmup output/gta/joint
    %(prog)s output/gta/*/seed* --output output/report --compare joint warmup

RUN is an output folder. Its scores are those at the end of its newest training, or of its newest evaluation if there is
no training. Folders <row>/seed<N> are the seeds of one row. With --output, a folder gets report.html, and all tables
(Markdown, LaTeX, CSV) and figures (SVG, PDF) as files.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Print a row for each run and protocol, or write a report.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(argv)
    run(args.runs, output=args.output, compared=args.compare, unit=args.unit)
    return 0


def run(
    folders: Sequence[Path], *, output: Path | None = None, compared: Sequence[Sequence[str]] = (), unit: str = "image"
) -> None:
    """Print the final scores in these output folders, or write their report into the folder `output`."""
    from clouds.experiments.printing import print_report

    print_report(folders, sys.stdout, output=output, compared=compared, unit="folder" if unit == "folder" else "image")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the folders and flags."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a training")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write report.html, tables and figures there")
    parser.add_argument(
        "--compare",
        nargs=2,
        action="append",
        default=[],
        metavar=("A", "B"),
        help="rows whose difference A less B is reported; may be given again (default: each row with the first)",
    )
    parser.add_argument(
        "--unit",
        choices=("image", "folder"),
        default="image",
        help="unit of the bootstrap: images, or their folders, such as cities or recordings (default: image)",
    )
    return parser.parse_args(argv)
