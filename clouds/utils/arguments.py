"""Parser and argument types of the command lines: a value that does not fit ends the command with exit code 2."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from clouds.errors import one_line

# Upper end of numbers without a natural one. A larger number is a mistake.
_MOST = 1_000_000_000
MOST_PROCESSES = 1024


class CommandParser(argparse.ArgumentParser):
    """Parser whose errors are one line, as those of `UserError`, and whose help keeps the lines of its texts.

    Args:
        description: text of the help before the flags, in which ``%(prog)s`` is the command as it was typed.
        epilog: text of the help after the flags, as `description`.
        parents: parsers whose arguments this one also has; their own help flag is used.
    """

    def __init__(
        self,
        description: str | None = None,
        *,
        epilog: str | None = None,
        parents: Sequence[argparse.ArgumentParser] = (),
    ) -> None:
        super().__init__(
            prog=program(),
            description=description,
            epilog=epilog,
            parents=list(parents),
            add_help=not parents,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Print a message in one line and exit with code 2."""
        self.exit(2, f"error: {one_line(f'{message}; see {self.prog} --help')}\n")


def program() -> str:
    """Return the command as it was typed: "clouds train", or "python tools/predict.py"."""
    name, *words = sys.argv
    path = Path(name)
    is_ours = path.stem == "clouds" or (path.parent.name, path.name) == ("clouds", "__main__.py")
    return " ".join(["clouds", *words[:1]]) if is_ours else f"python {name}"


def int_from(low: int, high: int) -> Callable[[str], int]:
    """Return a function that parses a whole number from `low` to `high`, both included.

    It raises `argparse.ArgumentTypeError` for other texts.
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high:,}, not {text!r}")
        return value

    return parse


def float_from(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """Return a function that parses a number from `low` to `high`, both included; with `above`, without `low`.

    It raises `argparse.ArgumentTypeError` for other texts.
    """
    wanted = f"above {low}, up to {high:,}" if above else f"from {low} to {high:,}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            raise argparse.ArgumentTypeError(f"must be a number {wanted}, not {text!r}")
        return value

    return parse


positive_int = int_from(1, _MOST)
"""Parse a whole number of at least 1."""

non_negative_int = int_from(0, _MOST)
"""Parse a whole number of at least 0."""

positive_float = float_from(0, _MOST, above=True)
"""Parse a number above 0."""

non_negative_float = float_from(0, _MOST)
"""Parse a number of at least 0."""

seed = int_from(0, 2**63 - 1)
"""Parse the seed of a random generator."""

pixels = int_from(1, 16_384)
"""Parse the height or width of an image."""

number_of_processes = int_from(1, MOST_PROCESSES)
"""Parse a number of processes on one machine."""


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add ``--nproc``, the number of worker processes; default: the number of CPU cores."""
    parser.add_argument(
        "--nproc",
        type=number_of_processes,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of worker processes (default: one per CPU core, %(default)s on this machine)",
    )
