"""Save a trained network as projects/minicity/weights/segmenter, and draw the images in projects/minicity/examples.

python projects/minicity/tools/save_segmenter.py output/minicity/segmenter
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT
from minicity.paths import PROJECT

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Save the network and draw the images; return the exit code."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="output folder of the training")
    add("--output", type=Path, default=PROJECT / "weights/segmenter", metavar="DIR", help=f"folder to write {DEFAULT}")
    add("--examples", type=Path, default=PROJECT / "examples", metavar="DIR", help=f"folder of the images {DEFAULT}")
    args = parser.parse_args(argv)
    from minicity.segmenter import save_segmenter

    save_segmenter(args.run, args.output, args.examples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
