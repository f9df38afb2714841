"""Speed on a GPU: parts of the network, whole steps, evaluation and foundation models, relative to named peers.

    python benchmarks/gpu.py                               every stage
    python benchmarks/gpu.py --stages step,joint --seconds 200
    python benchmarks/gpu.py --smoke                       every stage in miniature, on a CPU too

Networks have the sizes of the published recipe (ConvNeXt-L, crops of 768 x 768, 8 images a batch, test images of
1024 x 2048) and random weights, and images are synthetic: nothing is downloaded. Prints one line per measurement, with
its time and, where it has a peer in the same run, how many times as fast as the peer it is. All measurements go to a
JSON file, which is written again after each stage.
"""

import argparse
import gc
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

if "--smoke" in sys.argv and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

from stages import STAGES
from stages.bench import Bench
from stages.inputs import Inputs

from clouds.commands.entry import user_errors
from clouds.engine.run.record import code_version, machine, versions
from clouds.utils.arguments import CommandParser, positive_float
from clouds.utils.atomic import make_folder, write_atomically

ENOUGH = 20.0  # seconds that a stage needs at least


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages; the exit code is 1 if a measurement failed."""
    args = parse_arguments(argv)
    make_folder(args.json.parent)
    bench = Bench(seconds=args.seconds, smoke=args.smoke)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(bench.device, Path(folder), smoke=args.smoke)
        for stage in args.stages:
            run_stage(stage, bench, inputs)
            write_atomically(args.json, json.dumps(report(args, bench), indent=1) + "\n")
    return int(bool(bench.failures))


def run_stage(stage: str, bench: Bench, inputs: Inputs) -> None:
    """Run one stage if there is time left for it; if it fails, the failure is recorded and the run continues."""
    if bench.left() < ENOUGH:
        bench.note(f"{stage}/skipped", seconds_left=bench.left())
        return
    module, function = STAGES[stage]
    try:
        getattr(importlib.import_module(module), function)(bench, inputs)
    except Exception as error:  # noqa: BLE001 - one stage must not end the others
        bench.fail(stage, error)
    inputs.release()
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def report(args: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Return everything that goes to the JSON file. It holds no path of this machine."""
    flags = ["--stages", ",".join(args.stages), "--seconds", f"{args.seconds:g}", *(["--smoke"] if args.smoke else [])]
    return {
        "command": " ".join(["python benchmarks/gpu.py", *flags]),
        "code": code_version(),
        "versions": versions(),
        "machine": {key: value for key, value in machine().items() if key != "host"},
        "card": card(),
        "measurements": bench.measurements,
        "failures": bench.failures,
    }


def card() -> dict[str, Any] | None:
    """Return name, memory and compute capability of the GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_mib": found.total_memory // 2**20,
        "multiprocessors": found.multi_processor_count,
        "capability": f"{found.major}.{found.minor}",
    }


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--stages", type=stage_names, default=[*STAGES], metavar="A,B", help=f"stages to run: {', '.join(STAGES)}")
    add(
        "--seconds",
        type=positive_float,
        default=600.0,
        help="time budget; later stages are skipped (default: %(default)g)",
    )
    add("--smoke", action="store_true", help="run in miniature, one repetition per measurement")
    add("--json", type=Path, default=Path("output/gpu.json"), metavar="FILE", help="result (default: %(default)s)")
    return parser.parse_args(argv)


def stage_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no stage; stages are {', '.join(STAGES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
