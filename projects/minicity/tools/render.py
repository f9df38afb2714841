"""Write the minicity data sets: python projects/minicity/tools/render.py [--root DIR] [--num-train N] [--num-val N] ..."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.world.sets import DRAWN_SETS, NUM_GENERATED, NUM_TRAIN, NUM_VAL, SIZE
from minicity.world.writing import write_dataset

from clouds.commands.entry import user_errors


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Draw the minicity data sets, or what is missing of them, as PNG files."
    )
    default_root = os.environ.get("DETECTRON2_DATASETS") or "datasets"
    parser.add_argument(
        "--root", type=Path, default=Path(default_root), help="folder of all data sets (default: %(default)s)"
    )
    parser.add_argument("--num-train", type=int, default=NUM_TRAIN, help="training images (default: %(default)s)")
    parser.add_argument(
        "--num-generated", type=int, default=NUM_GENERATED, help="images without labels (default: %(default)s)"
    )
    parser.add_argument("--num-val", type=int, default=NUM_VAL, help="images per validation set (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("H", "W"), help="pixels (default: 256 512)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(DRAWN_SETS),
        default=list(DRAWN_SETS),
        metavar="NAME",
        help="write only these sets",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in args.only:
        write_dataset(name, args.root, num_images(name, args), tuple(args.size), args.workers)
    return 0


def num_images(name: str, args: argparse.Namespace) -> int:
    """How many images of a set the command line asks for."""
    if DRAWN_SETS[name].generated:
        return args.num_generated
    return args.num_train if name.endswith("_train") else args.num_val


if __name__ == "__main__":
    sys.exit(main())
