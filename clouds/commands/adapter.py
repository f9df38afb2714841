"""The command ``clouds adapter``: write the adapter of a network, or the network with the adapter merged."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser

DESCRIPTION = """\
Write the adapter of a trained network, or the network with the adapter merged into the weights of its tower.

    clouds adapter output/gta/warmup lora
    clouds adapter output/gta/warmup merged --merge

SOURCE is a checkpoint, its URL, the output folder of a training, or a folder that save_pretrained wrote. OUT is a
folder in the layout of peft, which MODEL.ADAPTER.WEIGHTS starts a training from; peft reads LoRA and SoMA from it onto
the same model of timm. With --merge, OUT is a folder as save_pretrained writes it, of a network without adapter that
clouds.load and clouds predict take; Rein depends on the image and cannot be merged.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Load a network, and write its adapter, or the network with its adapter merged.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    run(parse_arguments(argv))
    return 0


def run(args: argparse.Namespace) -> None:
    """Write what a parsed command line asks for."""
    from clouds.api import adapters, segmenter

    model = segmenter.load(args.source, config=args.config_file, options=args.options, device="cpu")
    if args.merge:
        model.merge().save_pretrained(args.output)
    else:
        adapters.save_adapter(model.network, args.output)
    sys.stdout.write(f"Written: {args.output}\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("source", metavar="SOURCE", help="trained network")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="config keys that replace those of the config")
    parser.add_argument("--config-file", metavar="FILE", help="YAML config (default: config.yaml beside the weights)")
    parser.add_argument(
        "--merge", action="store_true", help="write the network, with the adapter merged into its tower"
    )
    return parser.parse_intermixed_args(argv)
