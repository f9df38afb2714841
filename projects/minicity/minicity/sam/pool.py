"""Streets with a mask of each thing in them, drawn once and kept as files: what the miniature SAM is shown."""

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

_SMOOTH = 0.04  # share by which the depth of one surface changes from a pixel to the next, at most
_MOST_OBJECTS = 255


@dataclass(frozen=True)
class Streets:
    """Pictures with what can be segmented in them.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        labels: (N, H, W) uint8, train ids 0..18.
        objects: (N, H, W) uint8, a number for each thing of a picture; 0: of no thing that is known to the pixel.
    """

    images: Pixels
    labels: Pixels
    objects: Pixels

    def __len__(self) -> int:
        return len(self.images)


def object_map(rendered: Rendered) -> Pixels:
    """(H, W) uint8: the number of the thing, 1..255, whose pixel it is; 0 where there is none, or nobody knows which.

    A picture tells box, area and class of each thing, but not its pixels. They are the ones in the box that have the
    class and are not of another thing; or only those of them at one depth; or on one surface. A guess counts if both
    its area and its box are right. So a thing has all of its pixels or none.
    """
    found = np.zeros(rendered.label.shape, np.uint8)
    surfaces = _surfaces(rendered)
    left = list(enumerate(rendered.objects[:_MOST_OBJECTS], start=1))
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
        # What was found has made room around the others.
        if len(unknown) == len(left):
            break
        left = unknown
    return found


def _mask(
    item: SceneObject, free: npt.NDArray[np.bool_], maps: Sequence[npt.NDArray[np.generic]]
) -> npt.NDArray[np.bool_] | None:
    """The first of the free pixels of the box, and those of them with one value in a map, that can be the thing."""
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
    touches = (line.any() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return int(mask.sum()) == item.area and all(touches)


def _surfaces(rendered: Rendered) -> npt.NDArray[np.int32]:
    """(H, W): the same number for pixels that are joined by pixels of their class without a jump of the depth."""
    height, width = rendered.label.shape
    numbers = np.arange(height * width).reshape(height, width)
    log_depth = np.log(np.minimum(rendered.depth, 1e6))
    first, second = [], []
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        joined = (rendered.label[here] == rendered.label[there]) & (
            np.abs(log_depth[here] - log_depth[there]) < _SMOOTH
        )
        first.append(numbers[here][joined])
        second.append(numbers[there][joined])
    pairs = np.concatenate(first), np.concatenate(second)
    graph = coo_array((np.ones(len(pairs[0]), np.bool_), pairs), shape=(height * width, height * width))
    _, surface = connected_components(graph, directed=False)
    return surface.reshape(height, width)


def draw_streets(styles: Sequence[Style], seed: int, indices: range) -> Streets:
    """Draw scenes by number, `SCENE` pixels; each has a style of its own, chosen by its number."""
    drawn = [draw_scene(styles, seed, index)[0] for index in indices]
    return Streets(
        np.stack([rendered.image for rendered in drawn]),
        np.stack([rendered.label for rendered in drawn]),
        np.stack([object_map(rendered) for rendered in drawn]),
    )


def draw_street_pool(folder: Path, styles: Sequence[Style], seed: int, num_scenes: int, num_workers: int) -> Streets:
    """Draw ``num_scenes`` scenes in chunks under ``folder`` and read them all; chunks that are there are kept.

    Raises:
        OSError: the folder cannot be written.
    """
    streets = Streets(*(np.empty((num_scenes, *SCENE, *tail), np.uint8) for tail in ((3,), (), ())))
    for indices, arrays in draw_in_chunks(folder, _arrays, styles, seed, num_scenes, num_workers):
        for name, values in arrays.items():
            getattr(streets, name)[indices.start : indices.stop] = values
    return streets


def _arrays(styles: Sequence[Style], seed: int, indices: range) -> Arrays:
    return vars(draw_streets(styles, seed, indices))
