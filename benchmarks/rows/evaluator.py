"""The evaluator: from the answer for one image to the confusion matrix."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from scenes import CLASSES, label_map

from clouds.d2 import MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.data.classes import IGNORE_LABEL as IGNORE
from clouds.evaluation.sem_seg import SemSegEvaluator
from rows import FORMULATION, OURS, Sizes


def inputs(sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw scores (K, H, W) and a label map (H, W) uint8 with ignored pixels."""
    size = sizes["height"], sizes["width"]
    truth = torch.from_numpy(label_map(size, 0, specks=0.05))
    return torch.rand(CLASSES, *size, generator=torch.Generator().manual_seed(0)), truth


def ours(sizes: Sizes) -> Callable[[], np.ndarray]:
    """Return a call of our evaluator, which gets what the model hands on: a label map, or for comparison the scores."""
    scores, truth = inputs(sizes)
    answer = {"sem_seg": scores} if sizes["scores"] else {"label_map": scores.argmax(dim=0).to(torch.uint8)}
    MetadataCatalog.get("benchmark").set(
        stuff_classes=list(CITYSCAPES_CLASSES), stuff_colors=[(0, 0, 0)] * CLASSES, ignore_label=IGNORE
    )
    evaluator = SemSegEvaluator("benchmark")
    sample = {
        "sem_seg": truth,
        "file_name": "image",
        "image_id": "image",
        "height": sizes["height"],
        "width": sizes["width"],
    }

    def process() -> np.ndarray:
        evaluator.reset()
        evaluator.process([sample], [answer])
        return np.asarray(evaluator.matrix)

    return process


def theirs(sizes: Sizes) -> Callable[[], np.ndarray]:
    """Return the published steps: argmax, int64 predictions in NumPy, a count of joint labels. No boundaries."""
    scores, truth = inputs(sizes)
    return partial(published_count, scores, truth.long())


def published_count(scores: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    prediction = np.array(scores.argmax(dim=0).cpu(), dtype=int)
    labels = truth.numpy().copy()
    labels[labels == IGNORE] = CLASSES
    side = CLASSES + 1
    return np.bincount(side * prediction.reshape(-1) + labels.reshape(-1), minlength=side * side).reshape(side, side)


SIDES = {OURS: ours, FORMULATION: theirs}


def check(results: Mapping[str, Any]) -> str:
    """Compare the confusion matrices."""
    assert (results[OURS] == results[FORMULATION]).all(), "the confusion matrices differ"
    return "confusion matrices are equal"
