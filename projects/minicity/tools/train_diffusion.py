"""Train the miniature Stable Diffusion of minicity and write it as a folder that diffusers loads.

    python projects/minicity/tools/train_diffusion.py [--output DIR] [--denoiser-steps N] [--device cuda] ...

An interrupted training resumes with the same command. From the first saved state of the denoiser on, the folder holds a
model that paints. At the end the model is measured and its card written.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT, training_parser
from minicity.paths import PROJECT

from clouds.commands.entry import user_errors
from clouds.utils.arguments import positive_int


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, then train; return the exit code."""
    parser = training_parser(__doc__, cache=Path("output/minicity_diffusion"), scenes=10000)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=PROJECT / "weights/diffusion",
        metavar="DIR",
        help="folder to write (default: weights/diffusion of the project)",
    )
    add("--autoencoder-steps", type=positive_int, default=5200, metavar="N", help=f"number of updates {DEFAULT}")
    add("--autoencoder-batch", type=positive_int, default=4, metavar="N", help=f"images per update {DEFAULT}")
    add("--denoiser-steps", type=positive_int, default=4500, metavar="N", help=f"number of updates {DEFAULT}")
    add("--denoiser-batch", type=positive_int, default=64, metavar="N", help=f"latents per update {DEFAULT}")
    add(
        "--clip",
        type=Path,
        default=PROJECT / "weights/clip",
        metavar="DIR",
        help="CLIP for the perceptual loss and the evaluation (default: weights/clip of the project)",
    )
    add(
        "--prompts",
        type=Path,
        default=PROJECT / "configs/prompts.txt",
        metavar="FILE",
        help="prompts for the evaluation, one per line (default: configs/prompts.txt of the project)",
    )
    add("--sheet", type=Path, metavar="FILE", help="image file of a contact sheet to draw (default: none)")
    add("--bfloat16", action="store_true", help="compute in bfloat16, which is faster on some processors")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from minicity.diffusion.run import run

    run(**vars(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
