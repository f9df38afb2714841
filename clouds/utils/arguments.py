"""Argument types for command-line parsers: a value that does not fit ends the command with exit code 2."""

import argparse
import math
import os
from collections.abc import Callable


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    return _whole_number(text, minimum=1)


def non_negative_int(text: str) -> int:
    """Parse a whole number of at least 0.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    return _whole_number(text, minimum=0)


def positive_float(text: str) -> float:
    """Parse a finite number above 0.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    return _number(text, "above 0", lambda value: value > 0)


def non_negative_float(text: str) -> float:
    """Parse a finite number of at least 0.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    return _number(text, "of at least 0", lambda value: value >= 0)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add ``--nproc``, the number of worker processes; default: the number of CPU cores."""
    parser.add_argument(
        "--nproc",
        type=positive_int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of worker processes (default: one per CPU core, %(default)s on this machine)",
    )


def _whole_number(text: str, *, minimum: int) -> int:
    message = f"must be a whole number of at least {minimum}, not {text!r}"
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(message) from None
    if value < minimum:
        raise argparse.ArgumentTypeError(message)
    return value


def _number(text: str, wanted: str, fits: Callable[[float], bool]) -> float:
    message = f"must be a number {wanted}, not {text!r}"
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(message) from None
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(message)
    return value
