"""Scenes with a mask of each object: the training data of the miniature SAM, drawn once and stored as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from minicity.world.pool import SCENE, Arrays, Pixels, draw_in_chunks, draw_scene
from minicity.world.records import Rendered, SceneObject
from minicity.world.style import Style

_MAX_DEPTH_STEP = 0.04  # relative change of the depth of one surface from a pixel to the next
_MAX_OBJECTS = 255


@dataclass(frozen=True)
class LabeledScenes:
    """Images with their label maps and object masks.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        labels: (N, H, W) uint8 train ids 0..18.
        objects: (N, H, W) uint8, number of the object that a pixel belongs to; 0 for none, or unknown.
    """

    images: Pixels
    labels: Pixels
    objects: Pixels

    def __len__(self) -> int:
        return len(self.images)


def object_map(rendered: Rendered) -> Pixels:
    """Find the pixels of each object of a rendered scene.

    The renderer gives box, area and class of an object, but not its pixels. Candidates are the pixels in its box that
    have its class and belong to no other object, then only those at one depth, then only those of one surface. A
    candidate is accepted if its area and box are correct. So either all pixels of an object are found, or none.

    Returns:
        (H, W) uint8, number 1..255 of the object in `rendered.objects`; 0 for no object, or an unknown one.
    """
    found = np.zeros(rendered.label.shape, np.uint8)
    surfaces = _surfaces(rendered)
    left = list(enumerate(rendered.objects[:_MAX_OBJECTS], start=1))
    while left:
        unknown = []
        for number, item in left:
            x0, y0, x1, y1 = item.box
            window = np.s_[y0:y1, x0:x1]
            free = (rendered.label[window] == item.label) & (found[window] == 0)
            mask = _mask(item, free, (rendered.depth[window], surfaces[window]))
            if mask is None:
                unknown.append((number, item))
            else:
                found[window][mask] = number
        # Each object that was found leaves fewer candidate pixels for the others, so try these again.
        if len(unknown) == len(left):
            break
        left = unknown
    return found


def _mask(
    item: SceneObject, free: npt.NDArray[np.bool_], maps: Sequence[npt.NDArray[np.generic]]
) -> npt.NDArray[np.bool_] | None:
    """Return the first mask that fits: all free pixels of the box, or those with one value in one of the maps."""
    if _fits(item, free):
        return free
    for values in maps:
        different, areas = np.unique(values[free], return_counts=True)
        for value in different[areas == item.area]:
            mask = free & (values == value)
            if _fits(item, mask):
                return mask
    return None


def _fits(item: SceneObject, mask: npt.NDArray[np.bool_]) -> bool:
    """Return whether a mask has the area of the object and touches all sides of its box."""
    touches = (line.any() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return int(mask.sum()) == item.area and all(touches)


def _surfaces(rendered: Rendered) -> npt.NDArray[np.int32]:
    """Return (H, W) the number of the surface of each pixel: connected pixels of a class without a jump in depth."""
    height, width = rendered.label.shape
    numbers = np.arange(height * width).reshape(height, width)
    log_depth = np.log(np.minimum(rendered.depth, 1e6))
    first, second = [], []
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        joined = (rendered.label[here] == rendered.label[there]) & (
            np.abs(log_depth[here] - log_depth[there]) < _MAX_DEPTH_STEP
        )
        first.append(numbers[here][joined])
        second.append(numbers[there][joined])
    pairs = np.concatenate(first), np.concatenate(second)
    graph = coo_array((np.ones(len(pairs[0]), np.bool_), pairs), shape=(height * width, height * width))
    _, surface = connected_components(graph, directed=False)
    return surface.reshape(height, width)


def draw_labeled_scenes(styles: Sequence[Style], seed: int, indices: range) -> LabeledScenes:
    """Draw scenes with these indices at `SCENE` pixels, each in a style that its index chooses."""
    drawn = [draw_scene(styles, seed, index)[0] for index in indices]
    return LabeledScenes(
        np.stack([rendered.image for rendered in drawn]),
        np.stack([rendered.label for rendered in drawn]),
        np.stack([object_map(rendered) for rendered in drawn]),
    )


def draw_labeled_pool(
    folder: Path, styles: Sequence[Style], seed: int, num_scenes: int, num_workers: int
) -> LabeledScenes:
    """Draw the pool in chunks under `folder`, or read the chunks that exist.

    Raises:
        OSError: the folder cannot be written.
    """
    scenes = LabeledScenes(*(np.empty((num_scenes, *SCENE, *tail), np.uint8) for tail in ((3,), (), ())))
    for indices, arrays in draw_in_chunks(folder, _arrays, styles, seed, num_scenes, num_workers):
        for name, values in arrays.items():
            getattr(scenes, name)[indices.start : indices.stop] = values
    return scenes


def _arrays(styles: Sequence[Style], seed: int, indices: range) -> Arrays:
    return vars(draw_labeled_scenes(styles, seed, indices))
