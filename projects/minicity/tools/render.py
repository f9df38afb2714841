"""Draw the minicity data sets as PNG files. Images that exist are kept.

python projects/minicity/tools/render.py [--root DIR] [--num-train N] [--num-val N] ...
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT
from minicity.world.sets import DRAWN_SETS, NUM_GENERATED, NUM_TRAIN, NUM_VAL, SIZE

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, positive_int


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, then write the data sets; return the exit code."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets")
    add("--root", type=Path, default=root, metavar="DIR", help=f"folder of all data sets {DEFAULT}")
    for flag, count, what in (
        ("--num-train", NUM_TRAIN, "training images"),
        ("--num-generated", NUM_GENERATED, "images of the set that stands for generated ones"),
        ("--num-val", NUM_VAL, "images per validation set"),
    ):
        add(flag, type=positive_int, default=count, metavar="N", help=f"number of {what} {DEFAULT}")
    add(
        "--size",
        type=positive_int,
        nargs=2,
        default=SIZE,
        metavar=("H", "W"),
        help="size of the drawn scenes in pixels (default: {} {})".format(*SIZE),
    )
    add("--workers", type=positive_int, default=2, metavar="N", help=f"number of processes {DEFAULT}")
    add(
        "--only",
        nargs="+",
        choices=list(DRAWN_SETS),
        default=[name for name, part in DRAWN_SETS.items() if not part.on_demand],
        metavar="NAME",
        help="write only these sets (default: all but minicity_sim_holdout)",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from minicity.world.writing import write_dataset

    for name in args.only:
        write_dataset(name, args.root, num_images(name, args), tuple(args.size), args.workers)
    return 0


def num_images(name: str, args: argparse.Namespace) -> int:
    """Return the number of images that the arguments ask for in a set."""
    if DRAWN_SETS[name].generated:
        return int(args.num_generated)
    return int(args.num_train if name.endswith("_train") else args.num_val)


if __name__ == "__main__":
    sys.exit(main())
