"""Resident size of a process over a long training, and over a long evaluation of whole images.

    python benchmarks/soak/memory.py                           # both, as `make soak` measures them
    python benchmarks/soak/memory.py --kind training --count 300

Each runs with a miniature network on a CPU, in a process of its own, with the hooks, writers and loaders of a command.
Freed memory is kept by the allocator, so the size first rises to that of the largest images; then it has to stay.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from miniature import MINIATURE, MINIATURE_CLIP
from scenes import image, label_map

from clouds.config import load_config
from clouds.d2 import CfgNode, DatasetEvaluator, HookBase
from clouds.data.datasets import catalog
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.utils.memory import resident_size

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.02
"""Largest growth, as a share of the size after the warm-up."""
COUNTS = {"training": 1000, "evaluation": 500}
"""Iterations of the training, and images of the evaluation."""

WARMUP = 0.2  # share of the samples before the first that counts
DISTINCT = 4  # images on disk
SIZES = {"training": (256, 512), "evaluation": (1024, 2048)}
SETTINGS: dict[str, Any] = {
    **MINIATURE,
    "MODEL.DEVICE": "cpu",
    "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS": "",
    "INPUT.CROP_SIZE": (64, 64),
    "INPUT.INITIAL_HEIGHT": 128,
    "INPUT.INITIAL_WIDTH": 256,
    "DATASETS.TRAIN": ("soak_scenes",),
    "DATASETS.TEST": ("soak_scenes",),
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "TEST.EVAL_PERIOD": 0,
    "SEED": 1,
}


@dataclass(frozen=True)
class Growth:
    """Resident sizes of a process, in bytes, at equal distances after the warm-up.

    Attributes:
        kind: "training" or "evaluation".
        count: number of iterations or images, with the warm-up.
        sizes: resident sizes.
    """

    kind: str
    count: int
    sizes: tuple[int, ...]

    @property
    def share(self) -> float:
        """Growth from the first tenth of the sizes to the last, as a share; the medians of both are compared."""
        tenth = max(1, len(self.sizes) // 10)
        first, last = np.median(self.sizes[:tenth]), np.median(self.sizes[-tenth:])
        return float(last / first - 1)

    @property
    def is_flat(self) -> bool:
        """Whether the size does not grow by more than `LIMIT`."""
        return self.share <= LIMIT

    def __str__(self) -> str:
        low, high = min(self.sizes) / 1e6, max(self.sizes) / 1e6
        return f"{self.count:,} x {self.kind}: {low:.0f} to {high:.0f} MB, growth {self.share:+.2%} (limit {LIMIT:.0%})"


def measure(kind: str, count: int = 0) -> Growth:
    """Measure in a new process.

    Args:
        kind: "training" or "evaluation".
        count: number of iterations or images; 0 for that of `COUNTS`.
    """
    count = count or COUNTS[kind]
    words = [sys.executable, __file__, "--kind", kind, "--count", str(count), "--here"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return Growth(kind, count, tuple(json.loads(done.stdout.splitlines()[-1])))


class Sampling:
    """Resident sizes, sampled a hundred times."""

    def __init__(self, count: int) -> None:
        self.every = max(1, count // 100)
        self.seen = 0
        self.sizes: list[int] = []

    def step(self) -> None:
        """Count an iteration or an image."""
        self.seen += 1
        if self.seen % self.every == 0:
            self.sizes.append(resident_size() or 0)


def sizes_of_training(cfg: CfgNode, count: int) -> list[int]:
    """Train as the command does, with checkpoints and writers."""
    sampling = Sampling(count)

    class Sampled(HookBase):
        def after_step(self) -> None:
            sampling.step()

    trainer = Trainer(cfg)
    trainer.register_hooks([Sampled()])
    trainer.resume_or_load()
    trainer.evaluate = dict  # type: ignore[method-assign]
    trainer.train()
    return sampling.sizes


def sizes_of_evaluation(cfg: CfgNode, count: int) -> list[int]:
    """Evaluate as the command does."""
    sampling = Sampling(count)

    class Sampled(SemSegEvaluator):
        def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
            super().process(inputs, outputs)
            sampling.step()

    class Evaluating(Trainer):
        @classmethod
        def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
            return Sampled(dataset_name, boundary=cfg.TEST.BOUNDARY_IOU)

    Evaluating.test_weights(cfg)
    return sampling.sizes


KINDS: dict[str, Callable[[CfgNode, int], list[int]]] = {
    "training": sizes_of_training,
    "evaluation": sizes_of_evaluation,
}


def sample(kind: str, count: int) -> list[int]:
    """Return the resident sizes after the warm-up, in this process."""
    with tempfile.TemporaryDirectory(prefix="clouds-soak-") as name:
        folder = Path(name)
        files = list(write_scenes(folder, SIZES[kind]))
        repeats = -(-count // DISTINCT) if kind == "evaluation" else 1
        records = [
            {"file_name": str(a), "sem_seg_file_name": str(b), "image_id": f"{i}-{a.stem}"}
            for i in range(repeats)
            for a, b in files
        ][: count if kind == "evaluation" else None]
        catalog.register("soak_scenes", lambda: records)
        (folder / "clip.json").write_text(json.dumps(MINIATURE_CLIP))
        cfg = load_config(str(ROOT / "configs/warmup/gta/train_gta_r50.yaml"), [])
        settings = {**SETTINGS, "MODEL.CLOUDS.CLIP_MODEL_NAME": str(folder / "clip.json")}
        settings |= {"OUTPUT_DIR": str(folder / "run"), "SOLVER.MAX_ITER": count}
        cfg.merge_from_list([word for pair in settings.items() for word in pair])
        default_setup(cfg, Namespace(eval_only=kind == "evaluation"))
        sizes = KINDS[kind](cfg, count)
    return sizes[int(WARMUP * len(sizes)) :]


def write_scenes(folder: Path, size: tuple[int, int]) -> Iterator[tuple[Path, Path]]:
    """Write synthetic scenes and yield the paths of each image and its label map."""
    for number in range(DISTINCT):
        labels = label_map(size, number)
        paths = folder / f"{number}.png", folder / f"{number}_labels.png"
        Image.fromarray(image(labels, number)).save(paths[0])
        Image.fromarray(labels.astype(np.uint8)).save(paths[1])
        yield paths


def main() -> int:
    """Print the growth of each kind; the exit code is 1 if one grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=sorted(COUNTS), action="append", help="default: both")
    parser.add_argument("--count", type=int, default=0, help="iterations or images")
    parser.add_argument("--here", action="store_true", help="measure one kind in this process, and print the sizes")
    args = parser.parse_args()
    kinds = args.kind or list(COUNTS)
    if args.here:
        sys.stdout.write(f"{json.dumps(sample(kinds[0], args.count or COUNTS[kinds[0]]))}\n")
        return 0
    measured = [measure(kind, args.count) for kind in kinds]
    sys.stdout.write("".join(f"{each}\n" for each in measured))
    return 0 if all(each.is_flat for each in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
