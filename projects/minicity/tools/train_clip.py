"""Train the miniature CLIP of minicity and write it as a folder that open_clip loads.

    python projects/minicity/tools/train_clip.py [--model-config FILE] [--steps N] [--scenes N] [--device cuda] ...

An interrupted training resumes with the same command. At the end the model is measured and its card written.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT, training_parser
from minicity.paths import PROJECT, shown

from clouds.commands.entry import user_errors
from clouds.errors import UserError
from clouds.utils.arguments import positive_int

MODEL_CONFIG = PROJECT / "configs/clip_convnext_mini.json"


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Parse and check the arguments, then train; return the exit code."""
    parser = training_parser(__doc__, cache=Path("output/minicity_clip"), scenes=10000)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder to write (default: the folder in weights/ of the project that is named after the model config)",
    )
    add(
        "--model-config",
        type=Path,
        default=MODEL_CONFIG,
        metavar="FILE",
        help="open_clip model config (default: clip_convnext_mini.json in configs/ of the project)",
    )
    add("--crops", type=positive_int, default=24, metavar="N", help=f"number of crops per scene {DEFAULT}")
    add("--steps", type=positive_int, default=12000, metavar="N", help=f"number of updates {DEFAULT}")
    add("--batch-size", type=positive_int, default=64, metavar="N", help=f"full-size crops per update {DEFAULT}")
    add("--bfloat16", action="store_true", help="train the image tower in bfloat16, which is faster on some processors")
    add(
        "--teacher",
        type=Path,
        metavar="DIR",
        help="folder of a trained CLIP, whose text tower is taken over and whose feature maps are learned",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.model_config.suffix != ".json" or not args.model_config.is_file():
        raise UserError(
            f"--model-config {args.model_config} is no *.json file that exists; name one such as {shown(MODEL_CONFIG)}."
        )
    args.output = args.output or default_output(args.model_config)
    from minicity.clip.run import run

    run(**vars(args))
    return 0


def default_output(model_config: Path) -> Path:
    """Return the folder of the project for the CLIP of a model config."""
    is_default = model_config.resolve() == MODEL_CONFIG
    return PROJECT / "weights" / ("clip" if is_default else model_config.stem.removesuffix("_mini"))


if __name__ == "__main__":
    sys.exit(main())
