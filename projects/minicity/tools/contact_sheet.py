"""Draw an overview of all domains: scenes above their label maps, with their captions.

python projects/minicity/tools/contact_sheet.py [--output FILE] [--scenes N] [--seed N]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT
from minicity.paths import PROJECT

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, non_negative_int, positive_int


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, then draw and write the sheet; return the exit code."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=PROJECT / "docs/worlds.png",
        metavar="FILE",
        help="image file to write (default: docs/worlds.png of the project)",
    )
    add("--scenes", type=positive_int, default=1, metavar="N", help=f"scenes per domain {DEFAULT}")
    add("--seed", type=non_negative_int, default=0, metavar="N", help=f"seed of the scenes {DEFAULT}")
    add("--start", type=non_negative_int, default=44, metavar="N", help=f"index of the first scene {DEFAULT}")
    add("--styles", nargs="+", metavar="NAME", help="names of domains (default: all)")
    args = parser.parse_args(argv)
    from minicity.world.overview import write_overview

    write_overview(args.output, styles=args.styles, scenes=args.scenes, seed=args.seed, start=args.start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
