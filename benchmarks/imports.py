"""Processor time of importing CLOUDS, relative to ``import torch, timm``, in alternating rounds of one run.

    python benchmarks/imports.py [--rounds 5]

Each call runs in a fresh process and counts the processor time of all its threads, which other processes on the machine
hardly affect. The first round only warms up the cache of the files.
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
import sys
import clouds.clouds
from clouds.config import load_config
from clouds.d2 import build_model
build_model(load_config(sys.argv[1], sys.argv[2:]))
"""
CODE = {
    PEER: PEER,
    "import clouds": "import clouds",
    "import clouds.clouds": "import clouds.clouds",
    "a miniature network from a config": BUILD,
    "what a prediction imports": "import clouds.api.files",
}
TIMED = "\nimport time; print(time.process_time())"


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
        taken: dict[str, list[float]] = {name: [] for name in CODE}
        for number in range(rounds + 1):
            for name in CODE if number % 2 else reversed(CODE):
                seconds = processor_seconds(CODE[name], words)
                taken[name] += [seconds] if number else []
    sys.stdout.write(f"{'processor seconds':36}{'median':>8}{'least':>8}{'most':>8}{'ratio':>8}\n")
    for name, each in taken.items():
        ratio = median(ours / theirs for ours, theirs in zip(each, taken[PEER], strict=True))
        sys.stdout.write(f"{name:36}{median(each):8.2f}{min(each):8.2f}{max(each):8.2f}{ratio:8.2f}\n")
    return 0


def processor_seconds(code: str, words: Sequence[str]) -> float:
    """Return the processor time of Python code with a command line, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOUDS_D2": "bundled", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code + TIMED, *words], env=environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    sys.exit(main())
