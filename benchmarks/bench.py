"""Time and memory of CLOUDS on a CPU, relative to named peers, in alternating rounds of one run.

    python benchmarks/bench.py                        every row, and the tables of benchmarks/RESULTS.md
    python benchmarks/bench.py --quick                fewer rounds and smaller inputs: five minutes on two cores
    python benchmarks/bench.py --only training,labels
    PEER=<checkout of the published code> python benchmarks/bench.py

Each side of a row runs in a process of its own. Times are processor times of its process and of the programs that it
starts, which other processes on the machine hardly affect; peak memory is the rise of the process's resident memory.
The results of all sides are compared before they are reported. Sections of RESULTS.md that are not run keep their
tables.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from rows import OURS, ROWS, Row
from rows.measure import PREPARE, NotMeasured, Side, Times, measure, spread
from rows.results import missed, section_of, update

from clouds.commands.entry import user_errors
from clouds.engine.run.record import code_version, versions
from clouds.utils.arguments import CommandParser, positive_int
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.processes import available_cores

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"full": 100.0, "quick": 20.0, "miniature": 0.0}  # no round of a row starts after this time
# What the sides import is imported once, in the process that forks them.
IMPORTS = ["transformers.models.mask2former.modeling_mask2former", "clouds.engine.trainer", "rows.networks"]
VERSIONS = ("python", "torch", "transformers", "numpy", "pillow", "opencv-python-headless")


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the rows and write the results."""
    args = parse_arguments(argv)
    make_folder(args.json.parent)
    threads = str(args.threads)
    os.environ |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    names = args.only or [name for name, row in ROWS.items() if args.mode != "quick" or row.quick is not None]
    record: dict[str, Any] = {**origin(args), "rows": {}}
    for name in names:
        record["rows"][name] = result = run_row(name, ROWS[name], args.mode, args.threads, context)
        print_row(name, result)
        write_atomically(args.json, json.dumps(record, indent=1) + "\n")
        text = args.results.read_text() if args.results.exists() else "# Speed and memory\n"
        write_atomically(args.results, update(text, record))
    return 0


def run_row(name: str, row: Row, mode: str, threads: int, context: BaseContext) -> dict[str, Any]:
    """Measure a row; the result holds `sides`, `ratios`, `memory_ratios`, `agreement` and `left`."""
    module = importlib.import_module(f"rows.{row.module}")
    sides: list[Side] = []
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {**row.full, **({} if mode == "full" else getattr(row, mode) or {}), "folder": folder}
        if hasattr(module, "prepare"):
            sizes |= prepared(row, sizes, threads, context)
        started = [Side(context, row.module, side, sizes, threads) for side in row.sides]
        try:
            for side in started:
                try:
                    side.ready()
                    sides.append(side)
                except NotMeasured as reason:
                    found[side.name] = {"reason": str(reason)}
            rounds = {"full": row.rounds, "quick": min(row.rounds, 3), "miniature": 1}[mode]
            times, results = measure(sides, rounds, SECONDS[mode], warm=row.rounds > 1)
            for side, each in times.items():
                found[side] = counts(results[side]) if row.most else timing(each, sizes.get(row.per, 1))
            result = {
                "title": row.title.format(**sizes),
                "sides": {side: found[side] for side in row.sides},
                "ratios": ratios(found, "counts" if row.most else "processor"),
                "memory_ratios": ratios(found, "memory") if row.memory else {},
                "agreement": module.check(results) if len(results) > 1 else "",
            }
            lost = "" if mode == "miniature" or row.most else missed(name, result)
            result["left"] = {"of": lost, "parts": sides[0].ask(lost)} if lost else {}
            return result
        finally:
            for side in started:
                side.close()


def prepared(row: Row, sizes: dict[str, Any], threads: int, context: BaseContext) -> dict[str, Any]:
    """Return what the module of a row prepares for all sides, in a process of its own."""
    helper = Side(context, row.module, PREPARE, sizes, threads)
    try:
        helper.ready()
        helper.ask("run")
        made: dict[str, Any] = helper.ask("result")
        return made
    finally:
        helper.close()


def timing(times: Times, items: int) -> dict[str, Any]:
    """Return the record of a side: seconds per item as median, smallest and largest value; peak memory in MiB."""
    return {
        "processor": spread([each / items for each in times.processor]),
        "wall": spread([each / items for each in times.wall]),
        "rounds": len(times.processor),
        "memory": times.memory,
    }


def counts(result: dict[str, Any]) -> dict[str, Any]:
    return {"counts": [result["launches"], result["waits"]]}


def ratios(found: dict[str, Any], key: str) -> dict[str, float]:
    """Return ours / peer by the name of the peer, where both are measured."""

    def value(side: dict[str, Any]) -> float | None:
        entry = side.get(key)
        return entry[0] if isinstance(entry, list | tuple) else entry

    own = value(found[OURS])
    peers = {side: value(entry) for side, entry in found.items() if side != OURS}
    return {side: own / peer for side, peer in peers.items() if own is not None and peer}


def print_row(name: str, result: dict[str, Any]) -> None:
    words = [f"{value:.2f} of {peer}" for peer, value in result["ratios"].items()]
    words += [f"memory {value:.2f} of {peer}" for peer, value in result["memory_ratios"].items()]
    sys.stdout.write(f"{name:24s} {', '.join(words)}\n")
    sys.stdout.flush()


def origin(args: argparse.Namespace) -> dict[str, Any]:
    """Return command, date, hardware and versions. They hold no name of this machine and no path."""
    flags = [f"--{args.mode}"] if args.mode != "full" else []
    flags += ["--only", ",".join(dict.fromkeys(map(section_of, args.only)))] if args.only else []
    flags += ["--threads", str(args.threads)] if args.threads > 1 else []
    all_versions = {name.lower(): version for name, version in versions().items()}
    return {
        "command": " ".join([*(["PEER=..."] if os.environ.get("PEER") else []), "python benchmarks/bench.py", *flags]),
        "date": date.today().isoformat(),
        "code": code_version(),
        "cpu": processor_name(),
        "cores": available_cores(),
        "threads": args.threads,
        "versions": {name: all_versions[name] for name in VERSIONS if name in all_versions},
    }


def processor_name() -> str:
    """Return the name of the processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--quick", dest="mode", action="store_const", const="quick", help="five minutes on two cores")
    modes.add_argument(
        "--miniature", dest="mode", action="store_const", const="miniature", help="tiny inputs, one round: a test"
    )
    parser.set_defaults(mode="full")
    sections = ", ".join(dict.fromkeys(map(section_of, ROWS)))
    add("--only", type=row_names, metavar="A,B", help=f"sections to run: {sections}")
    add("--threads", type=positive_int, default=1, help="threads of each side (default: %(default)s)")
    add("--json", type=Path, default=Path("output/bench.json"), metavar="FILE", help="results (default: %(default)s)")
    add(
        "--results",
        type=Path,
        default=ROOT / "benchmarks/RESULTS.md",
        metavar="FILE",
        help="file whose tables are replaced (default: benchmarks/RESULTS.md)",
    )
    return parser.parse_args(argv)


def row_names(text: str) -> list[str]:
    """Return the rows of the sections that a list names; a table is always written as a whole."""
    words, sections = text.split(","), dict.fromkeys(map(section_of, ROWS))
    unknown = [word for word in words if word not in sections]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no section; sections are {', '.join(sections)}")
    return [name for name in ROWS if section_of(name) in words]


if __name__ == "__main__":
    sys.exit(main())
