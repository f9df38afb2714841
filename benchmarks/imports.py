"""Processor time of importing CLOUDS, relative to ``import torch, timm``, in alternating rounds of one run.

    python benchmarks/imports.py [--rounds 5]

Each row runs in a fresh process. It imports torch and timm, which CLOUDS imports anyway, and then the rest: a ratio of
two times of one process varies less than that of two processes. The times are those of all threads. The first round
only warms up the cache of the files.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from miniature import MINIATURE

from clouds.commands.entry import user_errors
from clouds.utils.arguments import CommandParser, positive_int
from clouds.utils.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "segmentation" / "clouds_config.yaml"
CONVNEXT = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

PEER = "import torch, timm"
BUILD = """
import clouds.clouds
from clouds.config import load_config
from clouds.d2 import build_model
build_model(load_config(sys.argv[1], sys.argv[2:]))
"""
CODE = {
    "import clouds.clouds": "import clouds.clouds",
    "and a miniature network from a config": BUILD,
    "what a prediction imports": "import clouds.api.files",
}
TIMED = f"""
import sys, time
{PEER}
first = time.process_time()
{{}}
print(first, time.process_time())
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = CommandParser(__doc__ or "")
    parser.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="number of rounds (default: 5)")
    rounds = parser.parse_args(argv).rounds
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.json")
        write_atomically(clip, json.dumps(CONVNEXT))
        settings = {**MINIATURE, "MODEL.DEVICE": "cpu", "MODEL.CLOUDS.CLIP_MODEL_NAME": clip}
        settings["MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS"] = ""
        words = [str(CONFIG), *(str(word) for pair in settings.items() for word in pair)]
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in CODE}
        for number in range(rounds + 1):
            for name in CODE if number % 2 else reversed(CODE):
                seconds = processor_seconds(CODE[name], words)
                taken[name] += [seconds] if number else []
    sys.stdout.write(f"{'median of processor seconds':40}{PEER:>20}{'all':>8}{'ratio':>8}\n")
    for name, each in taken.items():
        first, whole = (median(column) for column in zip(*each, strict=True))
        ratio = median(ours / theirs for theirs, ours in each)
        sys.stdout.write(f"{name:40}{first:20.2f}{whole:8.2f}{ratio:8.3f}\n")
    return 0


def processor_seconds(code: str, words: Sequence[str]) -> tuple[float, float]:
    """Return the processor time after `PEER`, and after Python code with a command line, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOUDS_D2": "bundled", "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-c", TIMED.format(code), *words]
    done = subprocess.run(call, env=environment, check=True, capture_output=True, text=True)
    first, whole = map(float, done.stdout.split()[-2:])
    return first, whole


if __name__ == "__main__":
    sys.exit(main())
