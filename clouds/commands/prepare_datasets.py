"""The command ``clouds prepare``: convert and check data sets."""

import argparse
import logging
import sys
from collections.abc import Sequence

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, add_processes
from clouds.utils.signals import stop_on_signals

DESCRIPTION = """\
Convert the labels of data sets to train ids, check every file, and report what is missing or wrong.

    %(prog)s [NAME ...]            convert label files where this is needed, then check
    %(prog)s --check [NAME ...]    only check
    %(prog)s --dataset my.yaml     prepare a data set of your own

The data root is $DETECTRON2_DATASETS, or datasets/ if that is not set. NAME is a data set, such as gta5 or
acdc_fog_val, or the beginning of several names, such as acdc; the default is every data set in the data root. The check
reads every image and label map: pairs, sizes, label ids, damaged files. The command ends with a table. The exit code is
1 if something is wrong.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Convert and check data sets.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code: 0 if every data set is complete and without a problem, else 1.
    """
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    good = run(
        args.names,
        args.dataset,
        args.module,
        only_check=args.check,
        write_lists=args.write_lists,
        all_problems=args.all_problems,
        processes=args.nproc,
    )
    return 0 if good else 1


def run(
    names: Sequence[str],
    custom: Sequence[str],
    modules: Sequence[str],
    *,
    only_check: bool,
    write_lists: bool,
    all_problems: bool,
    processes: int,
) -> bool:
    """Convert and check data sets, see `clouds.data.preparation.prepare.prepare`.

    Returns:
        Whether every data set is complete and without a problem.
    """
    from clouds.data.preparation.prepare import prepare

    with stop_on_signals():
        return prepare(
            names,
            custom,
            modules,
            only_check=only_check,
            write_lists=write_lists,
            all_problems=all_problems,
            processes=processes,
        )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags; ``names`` has the data sets."""
    parser = CommandParser(DESCRIPTION)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="data set, or the beginning of several names")
    add("--dataset", action="append", default=[], metavar="FILE", help="YAML file that describes your own data set")
    add("--module", action="append", default=[], metavar="NAME", help="Python module that registers data sets")
    add("--check", action="store_true", help="only check, convert nothing")
    add("--write-lists", action="store_true", help="write lists/NAME.txt, one pair of image and label map per line")
    add("--all-problems", action="store_true", help="show every problem of a data set, not only the first 20")
    add_processes(parser)
    return parser.parse_args(argv)
