"""How good the masks are that a SAM finds in streets, with a disc for comparison.

Letters: P prompts, n points of a prompt, M masks that SAM offers for it (three), H x W a picture.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minicity.sam.pool import Streets
from minicity.sam.regions import VIEW, Asked, Masks, components, random_points, shrunk, things
from minicity.sam.training import Promptable, Square, mask_iou

KINDS = {"regions": 279, "things": 64}
"""What is asked about, and the least pixels of it: regions of more than the paper's share of `VIEW`; whole things."""
POINTS = (1, 3, 5)


class Framing(Square, Protocol):
    """A square that masks come out of, too."""

    def to_masks(self, logits: Tensor, size: tuple[int, int]) -> Tensor: ...


class Segmenter(Promptable, Protocol):
    """A SAM as the core uses it."""

    frame: Framing

    def encode(self, images: Sequence[Tensor]) -> Sequence[Any]: ...


class Score(NamedTuple):
    """Mean intersection over union of ``prompts`` prompts, 0..1.

    ``chosen``: of the mask with the best predicted quality. ``best``: of the best of the three. ``disc``: of a disc of
    the right area in the middle of the points.
    """

    chosen: float
    best: float
    disc: float
    prompts: int


@torch.no_grad()
def measure(sam: Segmenter, streets: Streets, seed: int = 0) -> dict[tuple[str, int], Score]:
    """Ask about everything in some whole scenes at the size of `VIEW`.

    Args:
        sam: asked.
        streets: of `SCENE` pixels.
        seed: of the points.

    Returns:
        By kind and number of points.
    """
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {
        (kind, count): [] for kind in KINDS for count in POINTS
    }
    for number in range(len(streets)):
        image, labels, objects = shrunk(streets.images[number], streets.labels[number], streets.objects[number])
        (embedding,) = sam.encode([torch.from_numpy(image).permute(2, 0, 1)])
        regions = {"regions": components(labels, KINDS["regions"]), "things": things(objects, KINDS["things"])}
        for (kind, count), rows in found.items():
            rng = np.random.default_rng([seed, number, count])
            masks = regions[kind].ids == regions[kind].numbers[:, None, None]
            if len(masks):
                asked = Asked(masks, np.stack([random_points(mask, count, rng) for mask in masks]))
                rows += _scores(sam, embedding, asked)
    return {key: _mean(rows) for key, rows in found.items()}


def _mean(rows: Sequence[tuple[float, float, float]]) -> Score:
    chosen, best, disc = np.mean(rows, axis=0).tolist() if rows else [math.nan] * 3
    return Score(chosen, best, disc, len(rows))


def _scores(sam: Segmenter, embedding: Any, asked: Asked) -> list[tuple[float, float, float]]:
    """Of each prompt the IoU of the chosen mask, the best one and the disc."""
    points = sam.frame.to_frame(torch.from_numpy(asked.points).to(sam.device), VIEW)
    logits, quality = sam.decode(embedding.features, points, None)
    masks = sam.frame.to_masks(logits.flatten(0, 1), VIEW).unflatten(0, quality.shape)
    real = mask_iou(masks, torch.from_numpy(asked.masks).to(sam.device)[:, None])
    chosen = real.gather(1, quality.argmax(dim=1, keepdim=True))[:, 0]
    discs = mask_iou(torch.from_numpy(disc(asked)), torch.from_numpy(asked.masks))
    return list(zip(chosen.tolist(), real.amax(dim=1).tolist(), discs.tolist(), strict=True))


def disc(asked: Asked) -> Masks:
    """(P, H, W): for each prompt a disc around the middle of its points, as large as its answer."""
    y, x = np.indices(asked.masks.shape[1:])
    middle = asked.points.mean(axis=1)[:, :, None, None]
    radius2: npt.NDArray[np.float64] = asked.masks.sum(axis=(1, 2)) / np.pi
    return np.asarray((x - middle[:, 0]) ** 2 + (y - middle[:, 1]) ** 2 <= radius2[:, None, None])
