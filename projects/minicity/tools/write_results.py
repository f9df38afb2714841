"""Write the result tables of README.md and projects/minicity/RESULTS.md from the scores in projects/minicity/results.

    python projects/minicity/tools/write_results.py
    python projects/minicity/tools/write_results.py --take output/experiment_readme --plan readme

The second form first writes the scores of an experiment's output folder into projects/minicity/results/readme.json.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from minicity.arguments import DEFAULT

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the documents; return the exit code."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--take", type=Path, metavar="DIR", help="output folder of an experiment whose scores are taken first")
    add("--plan", choices=["readme"], default="readme", help=f"plan of this experiment {DEFAULT}")
    args = parser.parse_args(argv)
    from minicity.experiment import documents

    written = [documents.take_results(args.take, args.plan)] if args.take else []
    for path in [*written, *documents.write_documents()]:
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
