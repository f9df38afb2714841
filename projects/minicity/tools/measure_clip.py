"""Measure a CLIP on minicity: retrieval of captions, and classes of pixels without a segmenter.

    python projects/minicity/tools/measure_clip.py [FOLDER]

Prints the two tables of the model's card in Markdown.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT
from minicity.paths import PROJECT

from clouds.commands.entry import user_errors
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser, positive_int


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Parse and check the arguments, then measure and print; return the exit code."""
    parser = CommandParser(__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=PROJECT / "weights/clip",
        metavar="FOLDER",
        help="CLIP in open_clip's layout (default: weights/clip of the project)",
    )
    parser.add_argument(
        "--scenes", type=positive_int, default=60, metavar="N", help=f"number of new scenes per row {DEFAULT}"
    )
    args = parser.parse_args(argv)
    if not (args.folder / "open_clip_config.json").is_file():
        raise UserError(f"There is no CLIP in {args.folder}: it must be a folder with open_clip_config.json in it.")
    from minicity.clip.run import scene_tables

    sys.stdout.write(scene_tables(args.folder, args.scenes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
