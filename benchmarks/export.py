"""Speed of an exported network in onnxruntime, relative to CLOUDS in the same run, on a CPU.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/export.py [--miniature] [--labels] ...

Both go from the uint8 pixels of a synthetic scene to its scores or label map, in alternating order. Weights are random.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import onnxruntime
import torch
from rows.networks import build_ours
from scenes import image, label_map

from clouds.api.export import export_network, read_onnx
from clouds.commands.entry import user_errors
from clouds.engine.trainer import Trainer
from clouds.utils.arguments import CommandParser, pixels, positive_int
from clouds.utils.memory import keep_freed_memory
from clouds.visualization.palette import colors_of


def alternate(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Return the processor times of each call in seconds, after one round to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            if number:
                taken.append(time.process_time() - start)
    return times


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser("Measure an exported network.")
    parser.add_argument("--miniature", action="store_true", help="measure a miniature instead of RN50")
    parser.add_argument("--labels", action="store_true", help="compute label maps instead of scores")
    parser.add_argument("--height", type=pixels, default=512, help="height of the image (default: %(default)s)")
    parser.add_argument("--width", type=pixels, default=1024, help="width of the image (default: %(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=7, help="number of rounds (default: %(default)s)")
    args = parser.parse_args(argv)
    keep_freed_memory()
    _, network = build_ours(miniature=args.miniature, build=Trainer.build_model)
    network.eval()
    classes = network.test_classes
    size = args.height, args.width
    scene = torch.from_numpy(image(label_map(size, 0), 0)).permute(2, 0, 1).contiguous()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        start = time.process_time()
        export_network(network, path, classes=classes, colors=colors_of(classes), labels=args.labels)
        taken = time.process_time() - start
        with path.open("rb") as file:
            run = read_onnx(file)
        megabytes = path.stat().st_size / 1e6

    @torch.inference_mode()
    def ours() -> object:
        sample = [{"image": scene}]
        return network.predict_labels(sample) if args.labels else network(sample)

    times = alternate([ours, lambda: run(scene[None])], args.rounds)
    sys.stdout.write(f"export: {taken:.1f} s of processor time, {megabytes:.1f} MB\n")
    for name, values in zip(("CLOUDS", f"onnxruntime {onnxruntime.__version__}"), times, strict=True):
        sys.stdout.write(f"{name}: {median(values):.3f} s ({min(values):.3f}-{max(values):.3f})\n")
    ratios = [theirs / own for own, theirs in zip(*times, strict=True)]
    sys.stdout.write(f"onnxruntime / CLOUDS: {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
