"""Kill small jobs of all long commands at random moments, continue them, and compare them with undisturbed ones.

    make soak                                  # 1,000 kills, restarts, memory; on one core, with low priority
    make soak KILLS=100 SEED=3 ONLY=kills
    python benchmarks/soak/soak.py --kills 100 --write    # also replaces the table of benchmarks/RESULTS.md

The results of each job are appended to a file, so that the same command continues after an interruption. Ctrl-C prints
the counts so far. `memory.py` measures the memory. The exit code is 1 if something was lost or wrong, if a process
outlived its command, or if memory grew.
"""

import argparse
import dataclasses
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from rows.results import replaced

from clouds.commands.entry import user_errors
from clouds.engine.run.record import code_version
from clouds.errors import UserError
from clouds.utils.arguments import CommandParser, non_negative_int, positive_int
from soak import memory, restarts
from tests.faults.kills import Trials, Verdict
from tests.faults.processes import Processes, template

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("kills", "restarts", "memory")
RESULTS = ROOT / "benchmarks/RESULTS.md"
SECONDS = 1.1  # processor time of a kill on the machine of RESULTS.md, for the estimate


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Run the parts that the flags ask for; returns the exit code."""
    args = _parse(argv)
    _stay_in_the_background()
    minutes = {"kills": args.kills * SECONDS / 60, "restarts": args.restarts * 0.5, "memory": 15}
    about = sum(minutes[part] for part in args.only)
    sys.stdout.write(f"About {about:.0f} min on an idle core. The same command continues after an interruption.\n")
    began, record = time.perf_counter(), Record(args.record, args.seed)
    lines: list[str] = []
    is_complete = False
    try:
        with _trials() as trials:
            if "kills" in args.only:
                kill(trials, record, args.kills)
            if "restarts" in args.only:
                restart(trials, record, args.restarts)
        if "memory" in args.only:
            measured = [memory.measure(kind) for kind in memory.COUNTS]
            lines = [f"* {each}{'' if each.is_flat else ': too much'}" for each in measured]
        is_complete = True
    except KeyboardInterrupt:
        sys.stdout.write("\nInterrupted: the counts so far.\n")
    report = f"{table(record.verdicts)}\n\n" + "".join(f"{line}\n" for line in lines)
    report += f"\n{origin(args.seed, time.perf_counter() - began)}\n"
    sys.stdout.write(f"\n{report}")
    if args.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), "soak", report))
    failed = [each for each in record.verdicts if not each.is_good]
    for each in failed:
        sys.stdout.write(f"\n{each}\n")
    return 1 if failed or any("too much" in line for line in lines) else 0 if is_complete else 130


class Record:
    """Verdicts of one seed in a file with a line for each.

    Args:
        path: file; a new one is made.
        seed: only the lines of this seed and of this version of the code count.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.key = path, f"{code_version()} seed {seed}"
        self.seed = seed
        self.verdicts: list[Verdict] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else []:
            with suppress(json.JSONDecodeError):  # the last line of a killed run
                row = json.loads(line)
                if row.pop("key") == self.key:
                    self.verdicts.append(Verdict(**row))

    def add(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        with self.path.open("a") as file:
            file.write(json.dumps({"key": self.key, **dataclasses.asdict(verdict)}) + "\n")

    def of(self, *jobs: str) -> list[Verdict]:
        return [each for each in self.verdicts if each.job in jobs]


def kill(trials: Trials, record: Record, kills: int) -> None:
    """Interrupt the jobs in turn until the record has this number of kills."""
    jobs = list(trials.jobs)
    began, at_first = time.perf_counter(), sum(each.kills for each in record.of(*jobs))
    while (done := sum(each.kills for each in record.of(*jobs))) < kills:
        number = len(record.of(*jobs))
        name = jobs[number % len(jobs)]
        rng = random.Random(f"{record.seed} {number}")
        record.add(trials.interrupt(name, trials.random_kills(name, rng)))
        _progress("kills", done, at_first, kills, began, record)


def restart(trials: Trials, record: Record, count: int) -> None:
    """Kill single processes of trainings that go on by themselves: workers of loaders, and ranks under torchrun."""
    began = time.perf_counter()
    restarts.add_jobs(trials)
    for name in restarts.KINDS:
        while (done := len(record.of(name))) < count:
            record.add(restarts.kill_one(trials, name, random.Random(f"{record.seed} {name} {done}")))
            _progress(name, done, 0, count, began, record)


def table(verdicts: Iterable[Verdict]) -> str:
    """Return the counts of each job as a Markdown table."""
    verdicts = list(verdicts)
    groups = {name: [each for each in verdicts if each.job == name] for name in dict.fromkeys(v.job for v in verdicts)}
    rows = ["| job | times | kills | starts | lost | wrong | orphans |", "|---|---|---|---|---|---|---|"]
    for name, group in [*groups.items(), ("**all**", verdicts)]:
        sums = [sum(each.kills for each in group), sum(each.starts for each in group)]
        sums += [sum(len(getattr(each, what)) for each in group) for what in ("lost", "wrong", "orphans")]
        rows.append(f"| {name} | {len(group):,} | {' | '.join(f'{each:,}' for each in sums)} |")
    return "\n".join(rows)


def origin(seed: int, seconds: float) -> str:
    """Return a line on machine and versions."""
    return (
        f"Seed {seed}, commit {code_version()}, {seconds / 60:.0f} min in the last start, one of {os.cpu_count()} CPU "
        f"cores, {platform.system()}; Python {platform.python_version()}, torch {torch.__version__}."
    )


def _progress(what: str, done: int, at_first: int, count: int, began: float, record: Record) -> None:
    seconds = time.perf_counter() - began
    left = seconds / max(1, done - at_first) * (count - done)
    failures = sum(not each.is_good for each in record.verdicts)
    sys.stdout.write(f"\r{what}: {done:,} of {count:,}, {failures} failures, about {left / 60:.0f} min left   ")
    sys.stdout.flush()


@contextmanager
def _trials() -> Iterator[Trials]:
    folder = Path(tempfile.mkdtemp(prefix="clouds-soak-"))
    processes = Processes(folder)
    try:
        with template():
            yield Trials(folder / "trials", processes)
    finally:
        processes.end()
        shutil.rmtree(folder, ignore_errors=True)


def _stay_in_the_background() -> None:
    """Use one core with low priority, where the platform can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if hasattr(os, "nice"):
        os.nice(10)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--kills", type=positive_int, default=1000, metavar="N", help="number of kills (default: 1000)")
    add("--restarts", type=positive_int, default=10, metavar="N", help="restarts of each kind (default: 10)")
    add("--seed", type=non_negative_int, default=0, help="seed of the moments (default: 0)")
    add("--only", default=",".join(PARTS), metavar="LIST", help=f"some of {', '.join(PARTS)} (default: all)")
    add("--record", type=Path, default=Path("output/soak.jsonl"), metavar="FILE", help="default: output/soak.jsonl")
    add("--write", action="store_true", help="replace the table of benchmarks/RESULTS.md")
    args = parser.parse_args(argv)
    args.only = args.only.split(",")
    if unknown := sorted(set(args.only) - set(PARTS)):
        raise UserError(f"--only has the unknown part {unknown[0]!r}: choose of {', '.join(PARTS)}.")
    return args


if __name__ == "__main__":
    sys.exit(main())
