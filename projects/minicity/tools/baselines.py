"""Measure the baselines of the experiment, which do not look at shapes, and write their mIoU as JSON."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT
from minicity.paths import PROJECT

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the baselines on the test sets of a config; return the exit code."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--config-file", default=str(PROJECT / "configs/warmup.yaml"), help=f"config with the data sets {DEFAULT}")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file: name of a baseline -> test set -> mIoU")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from minicity.experiment.baselines import write_baselines

    write_baselines(args.config_file, args.opts, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
