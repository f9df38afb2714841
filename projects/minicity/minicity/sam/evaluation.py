"""Evaluation of a SAM on scenes: intersection over union of its masks, with a disc for comparison.

Letters: P prompts, M mask outputs of a prompt (three), H x W an image.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from clouds.self_training.sam.base import Embedding, PointSam
from minicity.sam.losses import mask_iou
from minicity.sam.pool import LabeledScenes
from minicity.sam.prompts import VIEW, Masks, PointPrompts, class_regions, random_points, shrink, whole_objects

MIN_AREAS = {"regions": 279, "objects": 64}
"""Kinds of masks, with the smallest area in pixels: connected regions of a class, with the same share of `VIEW` as the
smallest region in the paper, and whole objects."""
NUM_POINTS = (1, 3, 5)


class MaskScore(NamedTuple):
    """Mean intersection over union, 0..1.

    Attributes:
        chosen: mask with the highest predicted quality.
        best: best of the three masks.
        disc: disc of the true area around the mean of the points.
        prompts: number of prompts.
    """

    chosen: float
    best: float
    disc: float
    prompts: int


@torch.no_grad()
def measure(sam: PointSam, scenes: LabeledScenes, seed: int = 0) -> dict[tuple[str, int], MaskScore]:
    """Prompt for every region and object of whole scenes, at the size of `VIEW`.

    Args:
        sam: SAM to measure.
        scenes: scenes of `minicity.world.pool.SCENE` pixels.
        seed: seed of the points.

    Returns:
        Scores by kind, a key of `MIN_AREAS`, and number of points.
    """
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {
        (kind, count): [] for kind in MIN_AREAS for count in NUM_POINTS
    }
    for index in range(len(scenes)):
        image, labels, objects = shrink(scenes.images[index], scenes.labels[index], scenes.objects[index])
        (embedding,) = sam.encode([torch.from_numpy(image).permute(2, 0, 1)])
        candidates = {
            "regions": class_regions(labels, MIN_AREAS["regions"]),
            "objects": whole_objects(objects, MIN_AREAS["objects"]),
        }
        for (kind, count), rows in found.items():
            rng = np.random.default_rng([seed, index, count])
            masks = candidates[kind].ids == candidates[kind].numbers[:, None, None]
            if len(masks):
                points = np.stack([random_points(mask, count, rng) for mask in masks])
                rows += _scores(sam, embedding, PointPrompts(masks, points))
    return {key: _mean(rows) for key, rows in found.items()}


def _mean(rows: Sequence[tuple[float, float, float]]) -> MaskScore:
    chosen, best, disc = np.mean(rows, axis=0).tolist() if rows else [math.nan] * 3
    return MaskScore(chosen, best, disc, len(rows))


def _scores(sam: PointSam, embedding: Embedding, prompts: PointPrompts) -> list[tuple[float, float, float]]:
    """Return the IoU of the chosen mask, the best mask and the disc of each prompt."""
    points = sam.frame.to_frame(torch.from_numpy(prompts.points).to(sam.device), VIEW)
    logits, quality = sam.decode(embedding.features, points, None)
    masks = sam.frame.to_masks(logits.flatten(0, 1), VIEW).unflatten(0, quality.shape)
    ious = mask_iou(masks, torch.from_numpy(prompts.masks).to(sam.device)[:, None])
    chosen = ious.gather(1, quality.argmax(dim=1, keepdim=True))[:, 0]
    discs = mask_iou(torch.from_numpy(disc_masks(prompts)), torch.from_numpy(prompts.masks))
    return list(zip(chosen.tolist(), ious.amax(dim=1).tolist(), discs.tolist(), strict=True))


def disc_masks(prompts: PointPrompts) -> Masks:
    """Return (P, H, W) a disc for each prompt, around the mean of its points and with the area of its true mask."""
    y, x = np.indices(prompts.masks.shape[1:])
    center = prompts.points.mean(axis=1)[:, :, None, None]
    squared_radius: npt.NDArray[np.float64] = prompts.masks.sum(axis=(1, 2)) / np.pi
    return np.asarray((x - center[:, 0]) ** 2 + (y - center[:, 1]) ** 2 <= squared_radius[:, None, None])
