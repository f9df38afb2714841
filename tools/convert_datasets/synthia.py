"""Make label maps of train ids, *_labelTrainIds.png, from those of SYNTHIA-RAND-CITYSCAPES.

    python tools/convert_datasets/synthia.py PATH

PATH holds RGB/ and GT/LABELS/ (16-bit RGB PNGs).
"""

import sys

from clouds.commands.convert_datasets import run
from clouds.engine.cli import user_errors


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Convert what is not yet there; exits with 2 if some label file could not be converted."""
    return run("synthia", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
