"""The command ``clouds analyze``: count and measure what each part of a network costs."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clouds.commands.entry import user_errors
from clouds.config import load_config
from clouds.utils.arguments import CommandParser, pixels, positive_int
from clouds.utils.atomic import write_atomically
from clouds.utils.signals import stop_on_signals

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

DESCRIPTION = """\
Count and measure what each part of a network costs: parameters, FLOPs, memory and time.

    %(prog)s configs/warmup/gta/train_gta.yaml --no-time
    %(prog)s CONFIG --size 512x512 --batch 2 --json costs.json MODEL.DEVICE cpu

Neither data nor weights are needed: images are random, and so are weights. Parameters and FLOPs (a multiplication and
an addition are two) are counted without computing anything, for networks of any size. Time and memory are measured on
this machine, for a training step and for the prediction of one image; --no-time leaves them out. What a whole run takes
on its own data, clouds train --dry-run says.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Read the config, then count and measure.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(argv)
    run(load_config(args.config_file, args.opts), args)
    return 0


def run(cfg: "CfgNode", args: argparse.Namespace) -> None:
    """Print the tables, and write the JSON file if it is wanted.

    Args:
        cfg: config, not frozen.
        args: parsed command line, see `parse_arguments`.
    """
    from clouds.engine.analysis import analyze, tables

    with stop_on_signals():
        analysis = analyze.analyze(cfg, size=args.size, batch=args.batch, measures=not args.no_time)
    if args.json:
        text = json.dumps(tables.content(args.config_file, analysis), indent=2)
        write_atomically(args.json, f"{text}\n")
    sys.stdout.write(tables.format_analysis(args.config_file, analysis) + "\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags; ``opts`` has the KEY VALUE pairs."""
    parser = CommandParser(DESCRIPTION)
    add = parser.add_argument
    add("config_file", metavar="CONFIG", help="YAML config")
    add("--size", type=_size, metavar="HxW", help="height and width of the images in pixels (default: the config's)")
    add("--batch", type=positive_int, metavar="N", help="images of a training step (default: SOLVER.IMS_PER_BATCH)")
    add("--json", type=Path, metavar="FILE", help="also write all numbers to a JSON file")
    add("--no-time", action="store_true", help="count parameters and FLOPs only, without memory")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys and their values")
    return parser.parse_intermixed_args(argv)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH in pixels, such as 512x1024, not {text!r}")
    return pixels(found[1]), pixels(found[2])
