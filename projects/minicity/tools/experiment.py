"""The experiment in small: three miniature foundation models, a drawn world, the paper's ablation, one report.

    python projects/minicity/tools/experiment.py minicity             one seed, four rows: what `make demo` runs
    python projects/minicity/tools/experiment.py minicity --readme    the six rows that the README quotes, five seeds
    python projects/minicity/tools/experiment.py minicity --full      all rows of the paper's ablation, three seeds
    python projects/minicity/tools/experiment.py minicity --adapters  towers frozen, adapted and trained, three seeds

Each is a plan in projects/minicity/configs/plans, which `clouds experiment` runs; all other flags are those of
`clouds experiment`, such as --list, --rows frozen,joint and --seeds 5. Run it in the folder of the repository.
"""

import argparse
import sys
from collections.abc import Sequence

from minicity.paths import PROJECT

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the plan that the flags name; return the exit code."""
    args, rest = parse_arguments(argv)
    from clouds.commands import experiment

    experiment.run(experiment.parse_arguments([str(PROJECT / f"configs/plans/{args.plan}.yaml"), *rest]))
    return 0


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the name of the plan; the rest is for `clouds experiment`."""
    parser = CommandParser(__doc__)
    parser.add_argument("world", choices=["minicity"], help="world of the experiment")
    plans = parser.add_mutually_exclusive_group()
    for name in ("readme", "full", "adapters"):
        plans.add_argument(f"--{name}", dest="plan", action="store_const", const=name, help=f"the plan {name}.yaml")
    parser.set_defaults(plan="demo")
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    sys.exit(main())
