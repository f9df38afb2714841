"""Read thousands of mutated inputs and count what is neither accepted nor refused in one sentence.

    make fuzz                                               # 20,000 inputs
    make fuzz N=2000 SEED=3
    python benchmarks/fuzz.py --only images --case 1234      # one input again, with its message

An input is a mutated config, data set, prompt file, manifest, image, label map, checkpoint, record, or environment.
The public functions of CLOUDS read it in a worker process. It may be accepted, or refused by a `UserError` or a
`WriteError` whose message is one printable line of at most 500 characters that names a file or a key. Failures are any
other exception, a hang, a crash, a write outside the folder of the input, a program that is started, and a connection
that is opened. The inputs of failures are kept. The exit code is 1 if there are any.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from fuzzing.inputs import KINDS
from fuzzing.pool import Case, Outcome, run_case, run_cases
from tqdm import tqdm

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, non_negative_int, positive_float, positive_int

_SHOWN = 40  # groups of failures


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Run the inputs that the flags ask for; returns the exit code."""
    args = _parse(argv)
    names = args.only or list(KINDS)
    if args.case is not None:
        return _repeat(Case(names[0], args.seed, args.case), args.failures)
    cases = [Case(names[number % len(names)], args.seed, number // len(names)) for number in range(args.inputs)]
    began, outcomes = time.perf_counter(), []
    interval = 0.5 if sys.stderr.isatty() else 30  # seconds; a file gets few lines
    with tqdm(total=len(cases), unit="input", smoothing=0.05, mininterval=interval) as bar:
        for outcome in run_cases(cases, workers=args.workers, timeout=args.timeout, failures=args.failures):
            outcomes.append(outcome)
            bar.set_postfix_str(f"{sum(not each.verdict.is_right for each in outcomes)} failures", refresh=False)
            bar.update()
    sys.stdout.write(f"{table(outcomes)}\n\n{summary(outcomes, time.perf_counter() - began, args)}\n")
    failed = [each for each in outcomes if not each.verdict.is_right]
    if failed:
        sys.stdout.write(f"\n{failure_list(failed)}\nThe inputs are in {args.failures}.\n")
    return 1 if failed else 0


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the counts of each kind of input as a Markdown table."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.case.kind][outcome.verdict.what] += 1
    columns = ("accepted", "refused", "traceback", "message", "hang", "crash", "outside")
    rows = [*((kind, counts[kind]) for kind in KINDS if kind in counts), ("**all**", sum(counts.values(), Counter()))]
    lines = [
        f"| input | inputs | {' | '.join(columns)} |",
        f"|---|{'---|' * (len(columns) + 1)}",
        *(f"| {kind} | {row.total():,} | {' | '.join(f'{row[each]:,}' for each in columns)} |" for kind, row in rows),
    ]
    return "\n".join(lines)


def summary(outcomes: list[Outcome], seconds: float, args: argparse.Namespace) -> str:
    """Return a line on duration, slowest input, seed and versions."""
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    return (
        f"{len(outcomes):,} inputs in {seconds / 60:.1f} min, {args.workers} processes, seed {args.seed}. The slowest "
        f"({slowest.case}) took {slowest.seconds:.1f} s. Python {platform.python_version()}, torch {torch.__version__}."
    )


def failure_list(failed: list[Outcome]) -> str:
    """Return one line for each group of failures, with its number and its first case."""
    groups: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in failed:
        groups[outcome.case.kind, outcome.verdict.what, outcome.verdict.place].append(outcome)
    largest = sorted(groups.items(), key=lambda group: -len(group[1]))
    lines = []
    for (kind, what, place), members in largest[:_SHOWN]:
        first = min(members, key=lambda outcome: outcome.case.number)
        last = first.verdict.detail.strip().splitlines()[-1:] or [""]
        lines.append(
            f"{len(members):>5} {what}: {place}: {last[0]:.160}\n      "
            f"python benchmarks/fuzz.py --only {kind} --seed {first.case.seed} --case {first.case.number}"
        )
    return "\n".join(lines)


def _repeat(case: Case, failures: Path) -> int:
    target = (failures / "repeated" / str(case)).resolve()
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="clouds-fuzz-") as scratch:
        outcome = run_case(case, target, Path(scratch))
    sys.stdout.write(f"{outcome.verdict.what}: {outcome.verdict.place}\n{outcome.verdict.detail}\n{target}\n")
    return 0 if outcome.verdict.is_right else 1


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--inputs", type=positive_int, default=20_000, metavar="N", help="number of inputs (default: 20000)")
    add("--only", nargs="+", choices=list(KINDS), help="kinds of inputs (default: all)")
    add("--seed", type=non_negative_int, default=0, help="other inputs for another seed (default: 0)")
    add(
        "--case",
        type=non_negative_int,
        metavar="N",
        help="read one input of the first kind of --only again, in this process",
    )
    add("--workers", type=positive_int, default=2, help="number of processes (default: 2)")
    add("--timeout", type=positive_float, default=60, help="seconds after which an input hangs (default: 60)")
    add("--failures", type=Path, default=Path("output/fuzz"), help="folder of the failures (default: output/fuzz)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
