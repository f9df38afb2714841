"""What somebody may point at in a street, and where they point.

Legend: H x W a picture, R regions of a kind, P prompts, n points of a prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from minicity.sam.pool import SCENE, Pixels

VIEW = (SCENE[0] // 2, SCENE[1] // 2)
"""Pixels (height, width) of what the miniature SAM is shown: those of the generated set."""

RegionMap = npt.NDArray[np.int32]
Masks = npt.NDArray[np.bool_]


class Regions(NamedTuple):
    """Disjoint regions of a picture.

    Attributes:
        ids: (H, W) int32, which region each pixel is of.
        numbers: (R,) int64, the ids of those that count as regions.
        areas: (R,) int64, pixels.
    """

    ids: RegionMap
    numbers: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]


class Asked(NamedTuple):
    """Prompts with their answers.

    Attributes:
        masks: (P, H, W) bool.
        points: (P, n, 2) float32, x and y in pixels, all inside the mask.
    """

    masks: Masks
    points: npt.NDArray[np.float32]


def components(labels: Pixels, least: int) -> Regions:
    """The 4-connected components of equal label, of at least so many pixels: what self-training asks SAM about."""
    ids = np.zeros(labels.shape, np.int32)
    count = 0
    for label in np.unique(labels):
        pieces, numbers = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)
        ids += np.where(numbers > 0, numbers + count, 0).astype(np.int32)
        count += pieces - 1
    return _counted(ids, least)


def things(objects: Pixels, least: int) -> Regions:
    """The things of `Streets.objects` with at least so many pixels in the picture."""
    return _counted(objects.astype(np.int32), least)


def _counted(ids: RegionMap, least: int) -> Regions:
    areas = np.bincount(ids.ravel())
    areas[0] = 0
    numbers = np.flatnonzero(areas >= least)
    return Regions(ids, numbers, areas[numbers])


def shrunk(image: Pixels, labels: Pixels, objects: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """A whole scene at the size of `VIEW`, as the data sets are stored."""
    maps = (cv2.resize(each, VIEW[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for each in (labels, objects))
    return cv2.resize(image, VIEW[::-1], interpolation=cv2.INTER_AREA), *maps  # type: ignore[return-value]


def closer(
    image: Pixels, labels: Pixels, objects: Pixels, rng: np.random.Generator, whole: float
) -> tuple[Pixels, Pixels, Pixels]:
    """A scene as a random view: all of it in a share ``whole`` of cases, else a window; mirrored in half of them."""
    if rng.random() >= whole:
        height = int(rng.integers(VIEW[0], SCENE[0]))
        width = height * SCENE[1] // SCENE[0]
        top, left = (int(rng.integers(limit - size + 1)) for limit, size in zip(SCENE, (height, width), strict=True))
        window = np.s_[top : top + height, left : left + width]
        image, labels, objects = image[window], labels[window], objects[window]
    seen = shrunk(image, labels, objects)
    if rng.random() < 0.5:
        seen = tuple(np.ascontiguousarray(each[:, ::-1]) for each in seen)  # type: ignore[assignment]
    return seen


def ask(kinds: Sequence[Regions], count: int, num_points: int, rng: np.random.Generator) -> Asked:
    """Prompts for some regions: of each kind about equally many, none twice, larger ones more often.

    Args:
        kinds: regions to choose from; a pixel may be in one of each kind.
        count: P at most, fewer where there are fewer regions.
        num_points: n.
        rng: chooses.
    """
    masks: list[Masks] = []
    points: list[npt.NDArray[np.float32]] = []
    for turn, regions in enumerate(kinds):
        share = (count - len(masks)) // (len(kinds) - turn)
        for row in _drawn(np.sqrt(regions.areas), share, rng):
            masks.append(regions.ids == regions.numbers[row])
            points.append(random_points(masks[-1], num_points, rng))
    shape = kinds[0].ids.shape
    return Asked(np.array(masks, np.bool_).reshape(-1, *shape), np.array(points, np.float32).reshape(-1, num_points, 2))


def _drawn(weights: npt.NDArray[np.float64], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most ``count`` rows, none twice, by their weights: those with the least waiting times."""
    return np.argsort(rng.exponential(size=len(weights)) / weights)[:count]


def random_points(mask: Masks, count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(count, 2) x, y of pixels of a mask (H, W), no pixel twice unless it has too few."""
    inside = np.flatnonzero(mask)
    chosen = rng.choice(inside, count, replace=len(inside) < count)
    return np.stack((chosen % mask.shape[1], chosen // mask.shape[1]), axis=1).astype(np.float32)
