"""The command ``clouds convert``: write the weights of another project's file as a checkpoint of this one."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clouds.commands.entry import user_errors
from clouds.config import load_config
from clouds.utils.arguments import CommandParser

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

DESCRIPTION = """\
Write the weights of another project's file as a checkpoint.

    clouds convert IN OUT --config-file FILE [KEY VALUE ...]

IN is a file of CLOUDS as published, of FC-CLIP, Mask2Former or detectron2: .pth, .safetensors, or .pkl with NumPy
arrays. No code of the file runs: one that holds more than tensors, arrays and plain values is refused. OUT ends in
.safetensors or .pth. The keys are compared with the model of the config; three lines report which are matched, missing
and unexpected. OUT holds those that match.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Convert one file.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(argv)
    run(args, load_config(args.config_file, args.opts))
    return 0


def run(args: argparse.Namespace, cfg: "CfgNode") -> None:
    """Write the checkpoint, and print the report.

    Args:
        args: parsed command line, see `parse_arguments`.
        cfg: config of the model, not frozen yet.
    """
    from clouds.engine.checkpointing import foreign

    lines = foreign.convert_file(args.source, args.target, cfg, ema=args.ema).report
    sys.stdout.write("".join(f"{line}\n" for line in [*lines, f"Written: {args.target}"]))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the two files and the flags; ``opts`` has the KEY VALUE pairs."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("source", metavar="IN", help="path or URL of the file to convert")
    parser.add_argument("target", type=Path, metavar="OUT", help="path of the checkpoint, .safetensors or .pth")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config of the model")
    parser.add_argument("--ema", action="store_true", help="take the moving average of the weights, the teacher")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys, after all flags")
    return parser.parse_intermixed_args(argv)
