"""Random views of scenes, and point prompts in them.

Letters: H x W an image, R regions, P prompts, n points of a prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from clouds.self_training.regions import find_regions
from minicity.world.pool import SCENE, Pixels

VIEW = (SCENE[0] // 2, SCENE[1] // 2)
"""Size (H, W) of a view in pixels, equal to that of the generated set."""

Masks = npt.NDArray[np.bool_]


class Candidates(NamedTuple):
    """Disjoint regions of a view that a prompt may ask for.

    Attributes:
        ids: (H, W) int32, id of the region of each pixel.
        numbers: (R,) int64, ids of the candidates. Other ids are too small, or no region.
        areas: (R,) int64, pixels.
    """

    ids: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]


class PointPrompts(NamedTuple):
    """Point prompts with their true masks.

    Attributes:
        masks: (P, H, W) bool.
        points: (P, n, 2) float32, x and y in pixels, inside the mask.
    """

    masks: Masks
    points: npt.NDArray[np.float32]


def class_regions(labels: Pixels, min_area: int) -> Candidates:
    """Return the connected regions of each class with at least `min_area` pixels, which self-training asks SAM for."""
    regions = find_regions(labels, min_area=min_area - 1)
    return Candidates(regions.ids, np.arange(1, len(regions) + 1), regions.areas)


def whole_objects(objects: Pixels, min_area: int) -> Candidates:
    """Return the objects of `LabeledScenes.objects` with at least `min_area` pixels in the view."""
    ids = objects.astype(np.int32)
    areas = np.bincount(ids.ravel())
    areas[0] = 0
    numbers = np.flatnonzero(areas >= min_area)
    return Candidates(ids, numbers, areas[numbers])


def shrink(image: Pixels, labels: Pixels, objects: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """Resize image, label map and object map to `VIEW`, as the data sets are stored."""
    maps = (cv2.resize(each, VIEW[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for each in (labels, objects))
    return cv2.resize(image, VIEW[::-1], interpolation=cv2.INTER_AREA), *maps  # type: ignore[return-value]


def random_view(
    image: Pixels, labels: Pixels, objects: Pixels, rng: np.random.Generator, whole: float
) -> tuple[Pixels, Pixels, Pixels]:
    """Cut a random window, or with probability `whole` the whole scene; resize it to `VIEW`; mirror half of the views.

    Args:
        image: (H, W, 3) uint8 of `SCENE` pixels.
        labels: (H, W) uint8.
        objects: (H, W) uint8.
        rng: chooses the view.
        whole: probability of the whole scene.

    Returns:
        Image, label map and object map of the view.
    """
    if rng.random() >= whole:
        height = int(rng.integers(VIEW[0], SCENE[0]))
        width = height * SCENE[1] // SCENE[0]
        top, left = (int(rng.integers(limit - size + 1)) for limit, size in zip(SCENE, (height, width), strict=True))
        window = np.s_[top : top + height, left : left + width]
        image, labels, objects = image[window], labels[window], objects[window]
    view = shrink(image, labels, objects)
    if rng.random() < 0.5:
        view = tuple(np.ascontiguousarray(each[:, ::-1]) for each in view)  # type: ignore[assignment]
    return view


def choose_prompts(kinds: Sequence[Candidates], count: int, num_points: int, rng: np.random.Generator) -> PointPrompts:
    """Choose regions, about equally many of each kind and none twice, and random points in them.

    The chance of a region grows with the square root of its area.

    Args:
        kinds: candidates of each kind. A pixel may belong to one candidate of each.
        count: highest number of prompts. There are fewer if there are fewer candidates.
        num_points: n.
        rng: chooses regions and points.
    """
    masks: list[Masks] = []
    points: list[npt.NDArray[np.float32]] = []
    for turn, candidates in enumerate(kinds):
        share = (count - len(masks)) // (len(kinds) - turn)
        for row in _weighted_sample(np.sqrt(candidates.areas), share, rng):
            masks.append(candidates.ids == candidates.numbers[row])
            points.append(random_points(masks[-1], num_points, rng))
    shape = kinds[0].ids.shape
    return PointPrompts(
        np.array(masks, np.bool_).reshape(-1, *shape), np.array(points, np.float32).reshape(-1, num_points, 2)
    )


def _weighted_sample(weights: npt.NDArray[np.float64], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw at most `count` indices without replacement: those with the shortest exponential waiting times."""
    return np.argsort(rng.exponential(size=len(weights)) / weights)[:count]


def random_points(mask: Masks, count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return (count, 2) x and y of random pixels of a mask (H, W); pixels repeat only if the mask has too few."""
    inside = np.flatnonzero(mask)
    chosen = rng.choice(inside, count, replace=len(inside) < count)
    return np.stack((chosen % mask.shape[1], chosen // mask.shape[1]), axis=1).astype(np.float32)
