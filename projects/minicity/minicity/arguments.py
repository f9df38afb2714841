"""Command line arguments that the training commands share. Imports nothing heavy."""

import argparse
from pathlib import Path

from clouds.utils.arguments import CommandParser, positive_int

DEFAULT = "(default: %(default)s)"
"""End of a help text."""


def training_parser(description: str | None, *, cache: Path, scenes: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every training command has.

    Args:
        description: text of the help.
        cache: default of `--cache`.
        scenes: default of `--scenes`.
    """
    parser = CommandParser(description)
    add = parser.add_argument
    add("--cache", type=Path, default=cache, metavar="DIR", help=f"folder of drawn scenes and saved states {DEFAULT}")
    add("--scenes", type=positive_int, default=scenes, metavar="N", help=f"number of training scenes {DEFAULT}")
    add("--workers", type=positive_int, default=2, metavar="N", help=f"number of processes that draw scenes {DEFAULT}")
    add("--device", default="cpu", help=f"cpu, cuda or auto {DEFAULT}")
    return parser
