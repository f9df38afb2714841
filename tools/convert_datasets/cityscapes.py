"""Make label maps of train ids, *_labelTrainIds.png, from those of Cityscapes.

    python tools/convert_datasets/cityscapes.py PATH

PATH holds leftImg8bit/ and gtFine/ (*_labelIds.png or *_polygons.json).
"""

import sys

from clouds.commands.convert_datasets import run
from clouds.engine.cli import user_errors


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Convert what is not yet there; exits with 2 if some label file could not be converted."""
    return run("cityscapes", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
