"""The command ``clouds submit``: make the zip file that a test server takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clouds.commands.entry import user_errors
from clouds.config import check_weights, load_config
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser
from clouds.utils.signals import stop_on_signals

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

DESCRIPTION = """\
Predict the test split of Cityscapes or ACDC and make the zip file that the test server takes.

    %(prog)s --config-file FILE --benchmark cityscapes|acdc --output DIR \\
        MODEL.WEIGHTS model_final.pth

Every image is predicted at its own size. DIR gets <benchmark>_<split>/ with a PNG per image, <benchmark>_<split>.zip,
and <benchmark>_<split>.json, which records the weights and the config. Cityscapes takes label ids (7, 8, 11, ...), ACDC
train ids; clouds/evaluation/submission.py has all rules of the servers. After an interruption, the same command
continues: complete files are kept. With --split val the validation split is predicted, for the data set's own
evaluation scripts. No label map is needed.
"""


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Check everything that needs no torch, then make the submission.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code.
    """
    args = parse_arguments(argv)
    cfg = load_config(args.config_file, args.opts)
    if not cfg.MODEL.WEIGHTS:
        raise UserError("A submission needs a trained network: give MODEL.WEIGHTS model_final.pth.")
    check_weights(cfg.MODEL.WEIGHTS)
    run(cfg, benchmark=args.benchmark, split=args.split, output=args.output)
    return 0


def run(cfg: CfgNode, *, benchmark: str, split: str, output: Path) -> None:
    """Predict what is missing, then write the zip file.

    Args:
        cfg: config with ``MODEL.WEIGHTS``, not frozen yet.
        benchmark: "cityscapes" or "acdc".
        split: "test" or "val".
        output: output folder; created if it does not exist.

    Raises:
        UserError: see `clouds.engine.submission.make_submission`.
    """
    from clouds.engine.submission import make_submission

    with stop_on_signals():
        make_submission(cfg, benchmark, split, output)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags; ``opts`` has the KEY VALUE pairs."""
    parser = CommandParser(DESCRIPTION)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    parser.add_argument("--benchmark", required=True, choices=("cityscapes", "acdc"), help="test server")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="output folder")
    parser.add_argument("--split", default="test", choices=("test", "val"), help="split to predict (default: test)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and their values")
    return parser.parse_intermixed_args(argv)
