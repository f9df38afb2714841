"""The command ``clouds export``: write a network as an ONNX file or as a program of `torch.export`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, positive_int

DESCRIPTION = """\
Write a trained network as an ONNX file or as a program of torch.export.

    clouds export output/gta/warmup street.onnx
    clouds export model.pth street.pt2 --config-file FILE --labels --device cuda

SOURCE is the output folder of a training, a folder that save_pretrained wrote, its id on a hub (owner/name), a
checkpoint, or its URL. The file takes uint8 RGB images of any number and size and returns scores or label maps of their
size. It is compared with the network on batches of two sizes before it is written; if they differ, nothing is written,
and the exit code is 1. An export takes a minute or more.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Load a network, export it and print the differences.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    return run(parse_arguments(argv))


def run(args: argparse.Namespace) -> int:
    """Export the network of a parsed command line; returns 1 if the file would differ from the network."""
    from clouds.api import export, segmenter

    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("clouds").setLevel(logging.INFO)  # not of the exporter, which logs every tensor
    opset = args.opset or export.OPSET
    export.prepare_target(args.output, opset)
    # Without torch.compile, which takes minutes for the few images of the comparison.
    options = [*args.options, "MODEL.COMPILE", False]
    model = segmenter.load(args.source, config=args.config_file, options=options, device=args.device)
    try:
        differences = model.export(args.output, classes=args.classes, labels=args.labels, opset=opset)
    except export.ExportMismatch as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for each in differences:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write(f"{args.output}: {args.output.stat().st_size / 1e6:,.1f} MB\n")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("source", metavar="SOURCE", help="trained network")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write, which ends in .onnx or .pt2")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="config keys that replace those of the config")
    parser.add_argument("--config-file", metavar="FILE", help="YAML config (default: config.yaml beside the weights)")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names of the classes, each with its synonyms after commas, for a head with text (default: those of the "
        "network)",
    )
    parser.add_argument("--labels", action="store_true", help="return label maps instead of scores")
    parser.add_argument(
        "--opset", type=positive_int, metavar="N", help="version of ONNX's operators, from 18 to 23 (default: 20)"
    )
    parser.add_argument("--device", default="cpu", help="device of torch, and of a .pt2 file (default: cpu)")
    return parser.parse_intermixed_args(argv)
