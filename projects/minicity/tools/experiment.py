"""The whole experiment in small: three miniature foundation models, a drawn world, the paper's ablation, one report.

    python projects/minicity/tools/experiment.py minicity           one seed, four rows: what `make demo` runs
    python projects/minicity/tools/experiment.py minicity --full    all its rows, three seeds, and paired differences
    python projects/minicity/tools/experiment.py minicity --adapters
                                                                    towers frozen, adapted and trained, three seeds

Warm-up on labelled streets of one style; generation of images by the miniature Stable Diffusion; joint training with
pseudo-labels of the teacher and SAM; evaluation on that world and on five unseen ones. All of it is the code that
trains on real data. Interrupted, the same command continues; jobs that are done are not repeated.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.paths import PROJECT

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, non_negative_float, positive_int


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment; return the exit code."""
    args = parse_arguments(argv)
    from minicity.experiment.run import run

    return run(args)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("world", choices=["minicity"], help="world of the experiment")
    named = {"dest": "ablation", "action": "store_const"}
    ablation = parser.add_mutually_exclusive_group()
    ablation.add_argument("--full", const="full", help="all rows of the paper's ablation, three seeds", **named)
    ablation.add_argument("--adapters", const="adapters", help="the ablation of adapters, three seeds", **named)
    add("--rows", metavar="KEY,KEY", help="only these rows, such as frozen,joint, and those that they start from")
    add("--seeds", type=positive_int, help="number of seeds of each training (default: 1, with --full or --adapters 3)")
    add("--output", type=Path, help="folder of results (default: output/experiment, or output/experiment_full, ...)")
    add(
        "--workers",
        type=positive_int,
        default=min(os.cpu_count() or 1, 4),
        help="number of trainings at the same time (default: %(default)s here)",
    )
    add(
        "--sam",
        choices=["minicity_sam", "mobile_sam"],
        default="minicity_sam",
        help="SAM that refines the pseudo-labels (default: %(default)s)",
    )
    add(
        "--model",
        type=Path,
        default=PROJECT / "weights/diffusion",
        help="folder of the diffusers pipeline that generates the images (default: the miniature)",
    )
    add("--prompts", type=Path, default=PROJECT / "configs/prompts.txt", help="file with one prompt on each line")
    add("--steps", type=positive_int, default=20, help="number of denoising steps (default: %(default)s)")
    add("--guidance", type=non_negative_float, default=3.0, help="guidance scale (default: %(default)s)")
    add("--images", type=positive_int, default=1 << 20, help="maximum number of generated images (default: no limit)")
    add("--num-train", type=positive_int, help="number of drawn images of the training set (default: all)")
    add("--num-val", type=positive_int, help="number of drawn images of each validation set (default: all)")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides for all networks")
    # Intermixed: the settings at the end belong to no flag, although the world stands before the flags.
    args = parser.parse_intermixed_args(argv)
    args.seeds = args.seeds or (3 if args.ablation else 1)
    args.output = args.output or Path(f"output/experiment_{args.ablation}" if args.ablation else "output/experiment")
    return args


if __name__ == "__main__":
    sys.exit(main())
