"""Train the miniature SAM of minicity and write it as a folder for MODEL.CLOUDS.SAM.TYPE "segment_anything".

    python projects/minicity/tools/train_sam.py [--output DIR] [--steps N] [--scenes N] [--device cuda] ...

An interrupted training resumes with the same command. At the end the masks are measured and the card is written.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT, training_parser
from minicity.paths import PROJECT, REPOSITORY, shown

from clouds.commands.entry import user_errors
from clouds.errors import UserError
from clouds.utils.arguments import positive_int


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Parse and check the arguments, then train; return the exit code."""
    parser = training_parser(__doc__, cache=Path("output/minicity_sam"), scenes=2000)
    add = parser.add_argument
    folder = PROJECT / "weights/sam"
    add(
        "--output",
        type=Path,
        default=folder,
        metavar="DIR",
        help="folder to write (default: weights/sam of the project)",
    )
    add("--sizes", type=Path, metavar="FILE", help="segment_anything.json of another network (default: the miniature)")
    add("--steps", type=positive_int, default=3200, metavar="N", help=f"number of updates {DEFAULT}")
    add("--views", type=positive_int, default=4, metavar="N", help=f"number of views per update {DEFAULT}")
    add("--prompts", type=positive_int, default=8, metavar="N", help=f"number of prompts per view {DEFAULT}")
    add("--bfloat16", action="store_true", help="encode images in bfloat16, which is faster on some processors")
    add(
        "--compare",
        type=Path,
        default=REPOSITORY / "weights/mobile_sam.pt",
        metavar="FILE",
        help="weights of MobileSAM, measured as well if the file exists (default: weights/mobile_sam.pt)",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.sizes and not args.sizes.is_file():
        example = shown(folder / "segment_anything.json")
        raise UserError(f"--sizes {args.sizes} does not exist; name a file such as {example}.")
    from minicity.sam.run import run

    run(**vars(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
