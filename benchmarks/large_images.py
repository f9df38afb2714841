"""Time and peak memory of `clouds predict` on images that are large or narrow.

    OMP_NUM_THREADS=1 python benchmarks/large_images.py SOURCE [--only photo_20] [KEY VALUE ...]

SOURCE is a network as `clouds predict --model` takes it. Each image is predicted in a process of its own, in one pass,
with test-time augmentation, and with a sliding window. No process can allocate more than the limit. The peak is the
largest resident size, with all imports and weights. KEY VALUE are config keys of all rows.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scenes import image, label_map

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, positive_int

SIZES = {
    "tiny": (64, 64),
    "city": (1024, 2048),
    "strip": (64, 6000),
    "line": (1, 3000),
    "column": (500, 3),
    "photo_20": (3872, 5184),
    "photo_96": (8000, 12000),
}
"""Height and width of each image."""
PASSES: dict[str, list[str]] = {
    "one pass": [],
    "augmented": ["TEST.AUG.ENABLED", "True"],
    "window": ["TEST.WINDOW", "1024", "TEST.STRIDE", "683"],
}
"""Config keys of each way to predict."""
LIMITED = """
import resource, sys, time
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from clouds.commands.predict import main
code = main(sys.argv[1:])
from clouds.utils.memory import resident_size
print("took", time.process_time(), resident_size(peak=True))
sys.exit(code)
"""


def write_image(path: Path, size: tuple[int, int]) -> None:
    """Write a synthetic scene as JPEG, enlarged from one of at most 1024 x 1024 pixels."""
    height, width = (min(side, 1024) for side in size)
    scene = cv2.resize(image(label_map((height, width), 0, fray=min(height, width) / 100), 0), size[::-1])
    Image.fromarray(np.asarray(scene)).save(path, quality=90)


def measure(source: str, path: Path, folder: Path, limit: int, opts: Sequence[str]) -> tuple[float, float]:
    """Predict an image in a new process; return its processor time in seconds and its peak in MiB."""
    command = [sys.executable, "-c", LIMITED, str(limit), "--model", source, str(path), "--output", str(folder), *opts]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode or not (found := re.search(r"^took (\S+) (\d+)$", result.stdout, re.MULTILINE)):
        raise RuntimeError(f"{path.name} ends with {result.returncode}: {result.stderr[-2000:]}")
    return float(found[1]), int(found[2]) / 2**20


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser("Measure predictions of large and narrow images.")
    parser.add_argument("source", metavar="SOURCE", help="trained network")
    parser.add_argument("--only", choices=SIZES, action="append", help="one of the images; may be repeated")
    parser.add_argument("--limit", type=positive_int, default=4096, help="MiB of memory (default: %(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_intermixed_args(argv)
    sys.stdout.write(f"| image | {' | '.join(PASSES)} |\n|---|{'---|' * len(PASSES)}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for image_name in args.only or SIZES:
            height, width = SIZES[image_name]
            path = folder / f"{image_name}.jpg"
            write_image(path, (height, width))
            cells = []
            for keys in PASSES.values():
                seconds, peak = measure(args.source, path, folder, args.limit * 2**20, [*args.opts, *keys])
                cells.append(f"{seconds:.1f} s, {peak:,.0f} MiB")
            labels = Image.open(folder / f"{image_name}_labels.png")
            if labels.size != (width, height):
                raise RuntimeError(f"the label map of {image_name} has the size {labels.size}")
            sys.stdout.write(f"| {height} x {width} | {' | '.join(cells)} |\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
