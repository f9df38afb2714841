"""Measure a CLIP on minicity: captions of streets found again, and classes of pixels without a segmenter.

    python projects/minicity/tools/measure_clip.py [FOLDER]

FOLDER (default: projects/minicity/weights/clip) is in open_clip's layout. Prints two tables in Markdown, those of its card.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.tool import check_counts

from clouds.commands.entry import user_errors
from clouds.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
SEED = 1
"""Not that of the training."""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=ROOT / "projects/minicity/weights/clip", metavar="FOLDER"
    )
    parser.add_argument("--scenes", type=int, default=60, help="new streets a row (default: %(default)s)")
    args = parser.parse_args(argv)
    check_counts(args, "scenes")
    if not (args.folder / "open_clip_config.json").is_file():
        raise UserError(f"There is no CLIP in {args.folder}: it must be a folder with open_clip_config.json in it.")
    logging.disable(logging.INFO)
    from minicity.clip.quality import tables

    from clouds.modeling.backbone.clip import CLIP

    for line in tables(CLIP.from_folder(args.folder), args.scenes, SEED):
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
