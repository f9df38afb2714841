"""Label map -> regions -> prompts, and SAM's masks -> target (CLOUDS, section 3.3). Pure functions.

A label map of a million pixels has some ten thousand horizontal runs of equal label. Regions are found by joining runs
and are stored as lists of runs, so that no function visits the pixels once per class or per region.

Letters: H x W label map, N runs, R regions, P prompts (regions that have points), n points of a prompt, M masks that
SAM predicts for a prompt, C classes with a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.structures import Target
from clouds.utils.transfer import upload

SELECTION_MODES = ("random", "center", "largest_component")
CENTER_RADIUS = 10
"""Upper bound, in pixels, of the distance between the center and a point of the mode "center"."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """Disjoint sets of pixels, each of one class.

    Attributes:
        ids: (H, W) int32, index of the pixel's region + 1; 0 where there is no region.
        classes: (R,) int64, class of each region.
        areas: (R,) int64, area of each region in pixels.
        run_starts: (N,) int64, index in the flattened map at which a run begins; runs are ordered by region, those of a
            region in raster order.
        run_lengths: (N,) int64, length of each run in pixels.
        run_regions: (N,) int64, index of each run's region, ascending.
    """

    ids: npt.NDArray[np.int32]
    classes: Integers
    areas: Integers
    run_starts: Integers
    run_lengths: Integers
    run_regions: Integers

    def __len__(self) -> int:
        return len(self.classes)

    def label_map(self) -> npt.NDArray[np.uint8]:
        """Return (H, W), the class of each pixel, `IGNORE_LABEL` where there is no region."""
        return np.append(IGNORE_LABEL, self.classes).astype(np.uint8)[self.ids]

    def pixels(self, region: int, ranks: Integers) -> Integers:
        """Return pixels of a region as flat indices (n,).

        Args:
            region: index of the region.
            ranks: (n,) positions in [0, area) of the pixels in the region's raster order.
        """
        first, end = np.searchsorted(self.run_regions, (region, region + 1))
        ends = np.cumsum(self.run_lengths[first:end])
        run = np.searchsorted(ends, ranks, side="right")
        return self.run_starts[first + run] + ranks - (ends[run] - self.run_lengths[first + run])


class Prompts(NamedTuple):
    """Prompts for SAM: points in regions, or the classes of regions.

    Attributes:
        points: (P, n, 2) float32, x (column) and y (row) in pixels of the label map; n is 0 where classes are prompts.
        classes: (P,) int64, class of each prompt.
        region: (P,) int64, index of the region that the points lie in, or of the first region of the class.
    """

    points: npt.NDArray[np.float32]
    classes: Integers
    region: Integers


def find_regions(label_map: npt.NDArray[np.integer], *, min_area: int, ignore: int = IGNORE_LABEL) -> Regions:
    """Find the 4-connected components of equal label that are larger than `min_area`.

    Args:
        label_map: (H, W) uint8 or another integer type.
        min_area: area in pixels that a region must exceed.
        ignore: label that belongs to no region.

    Returns:
        Regions ordered by class, those of a class in raster order of their first pixels.
    """
    starts, run_of = _runs(label_map)
    component = _joined(label_map, starts, run_of)
    lengths = np.diff(starts, append=label_map.size)
    _, first = np.unique(component, return_index=True)
    classes = label_map.ravel()[starts[first]].astype(np.int64)
    areas = np.bincount(component, weights=lengths, minlength=len(first)).astype(np.int64)
    kept = np.flatnonzero((areas > min_area) & (classes != ignore))
    kept = kept[np.lexsort((first[kept], classes[kept]))]
    number = np.zeros(len(first), np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    return _tabulated(number[component], starts, lengths, run_of, classes[kept])


def choose_points(regions: Regions, *, num_points: int, mode: str, erosion: int, rng: np.random.Generator) -> Prompts:
    """Choose distinct random points in each region. A region with fewer pixels to choose from gets no prompt.

    Args:
        regions: R regions.
        num_points: n, number of points per region, at least 1.
        mode: "random" chooses from the whole region. "center" chooses pixels less than `CENTER_RADIUS` from the
            centroid of the region's largest piece or, if too few pixels of the piece are that near (it may be a ring),
            from its pixel that is nearest to the centroid. "largest_component" chooses from the largest piece of each
            class only.
        erosion: side in pixels of the square that must fit into the region around a point; outside of the map there is
            no region. Erosion may split a region into pieces. 0 and 1 = no erosion.
        rng: source of random numbers.

    Raises:
        ValueError: an unknown mode, or less than one point.
    """
    if mode not in SELECTION_MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(SELECTION_MODES)}")
    if num_points < 1:
        raise ValueError(f"num_points is {num_points}; it must be 1 or more")
    pieces = _eroded(regions, erosion) if erosion > 1 else regions
    owner = chosen = np.arange(len(regions))
    if mode != "random":
        if erosion > 1:
            pieces = find_regions(pieces.ids, min_area=0, ignore=0)
            owner = pieces.classes - 1
        chosen = _largest(owner if mode == "center" else regions.classes[owner], pieces.areas)
    width = regions.ids.shape[1]
    points, region = [], []
    for piece in chosen[pieces.areas[chosen] >= num_points]:
        if mode == "center":
            pixels = _central_pixels(pieces, piece, num_points)
            if len(pixels) < num_points:
                continue
            pixels = rng.choice(pixels, num_points, replace=False)
        else:
            pixels = pieces.pixels(piece, rng.choice(pieces.areas[piece], num_points, replace=False))
        points.append(np.stack((pixels % width, pixels // width), axis=1))
        region.append(owner[piece])
    found = np.array(region, np.int64)
    return Prompts(np.array(points, np.float32).reshape(-1, num_points, 2), regions.classes[found], found)


def choose_classes(regions: Regions) -> Prompts:
    """Choose the classes of all regions, ascending, as prompts without points."""
    classes, first = np.unique(regions.classes, return_index=True)
    return Prompts(np.zeros((len(classes), 0, 2), np.float32), classes, first)


def select_best(masks: Tensor, quality: Tensor) -> Tensor:
    """Select the mask with the highest quality of each prompt: (P, M, H, W), (P, M) -> (P, H, W)."""
    return masks[torch.arange(len(masks), device=masks.device), quality.argmax(dim=1)]


def merge_masks(masks: Tensor, classes: Sequence[int], *, rm_intersection: bool) -> Target:
    """Unite the masks of each class. Needs no more memory than the result and three maps, and does not wait for a GPU.

    Args:
        masks: (P, H, W) bool, one mask per prompt, on any device; not changed.
        classes: P classes, that of each prompt.
        rm_intersection: whether to drop pixels that masks of two or more classes claim.

    Returns:
        All classes in `classes`, ascending, with masks (C, H, W). A mask may be empty after dropping pixels.
    """
    row_of = {value: row for row, value in enumerate(sorted(set(classes)))}
    union = masks.new_zeros((len(row_of), *masks.shape[1:]))
    for mask, value in zip(masks, classes, strict=True):
        union[row_of[value]] |= mask
    if rm_intersection:
        claimed, disputed = masks.new_zeros((2, *masks.shape[1:]))
        for row in union:
            disputed |= claimed & row
            claimed |= row
        union &= disputed.logical_not_()
    return Target(upload(torch.tensor([*row_of], dtype=torch.int64), masks.device), union)


def _runs(values: npt.NDArray[np.integer]) -> tuple[Integers, npt.NDArray[np.int32]]:
    """Return the flat start (N,) of each run of equal values in a row, and the index of each pixel's run, (H, W)."""
    begins = np.ones(values.shape, bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    run_of = np.cumsum(begins, dtype=np.int32).reshape(values.shape)
    run_of -= 1
    return np.flatnonzero(begins), run_of


def _joined(values: npt.NDArray[np.integer], starts: Integers, run_of: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the component of each run, (N,): runs of equal value that touch vertically are in one component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    begins = np.zeros(values.shape, bool)
    begins.ravel()[starts] = True
    # The left end of the part that two runs share is the start of one of them: there, each pair is found once.
    touch = begins[1:] | begins[:-1]
    touch &= values[1:] == values[:-1]
    upper, lower = run_of[:-1][touch], run_of[1:][touch]
    graph = coo_array((np.ones(len(upper), np.int8), (upper, lower)), shape=(len(starts), len(starts)))
    return connected_components(graph, directed=False)[1]


def _tabulated(
    number: npt.NDArray[np.int32],
    starts: Integers,
    lengths: Integers,
    run_of: npt.NDArray[np.int32],
    classes: Integers,
) -> Regions:
    """Build regions from runs; `number` (N,) is the id of each run's region, 0 = none."""
    order = np.argsort(number, kind="stable")
    order = order[np.count_nonzero(number == 0) :]
    run_regions = number[order].astype(np.int64) - 1
    areas = np.bincount(run_regions, weights=lengths[order], minlength=len(classes)).astype(np.int64)
    return Regions(np.take(number, run_of), classes, areas, starts[order], lengths[order], run_regions)


def _eroded(regions: Regions, size: int) -> Regions:
    """Erode each region with a square of side `size`; a region may become empty."""
    # A square of one class is connected and thus lies in one region: classes, which fit 16 bits, can replace ids.
    classes = np.append(0, regions.classes + 1).astype(np.uint16)[regions.ids]
    square = np.ones((size, size), np.uint8)
    least = cv2.erode(classes, square, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    uniform = least == cv2.dilate(classes, square)
    ids = np.where(uniform, regions.ids, 0)
    starts, run_of = _runs(ids)
    return _tabulated(ids.ravel()[starts], starts, np.diff(starts, append=ids.size), run_of, regions.classes)


def _largest(groups: Integers, sizes: Integers) -> Integers:
    """Return the index of the first largest member of each group, ordered by group."""
    order = np.lexsort((-sizes, groups))
    return order[np.unique(groups[order], return_index=True)[1]]


def _central_pixels(regions: Regions, region: int, enough: int) -> Integers:
    """Return the flat indices of a region's pixels near its centroid or, if too few, near its pixel closest to it."""
    height, width = regions.ids.shape
    first, end = np.searchsorted(regions.run_regions, (region, region + 1))
    lengths = regions.run_lengths[first:end]
    row, left = np.divmod(regions.run_starts[first:end], width)
    right = left + lengths - 1
    centroid = np.average(row, weights=lengths), np.average((left + right) / 2, weights=lengths)
    column = np.clip(round(centroid[1]), left, right)
    nearest = np.hypot(row - centroid[0], column - centroid[1]).argmin()
    for y, x in (centroid, (row[nearest], column[nearest])):
        rows = np.arange(max(int(y) - CENTER_RADIUS, 0), min(int(y) + CENTER_RADIUS + 2, height))[:, None]
        columns = np.arange(max(int(x) - CENTER_RADIUS, 0), min(int(x) + CENTER_RADIUS + 2, width))
        near = np.hypot(rows - y, columns - x) < CENTER_RADIUS
        near &= regions.ids[rows, columns] == region + 1
        pixels = (rows * width + columns)[near]
        if len(pixels) >= enough:
            break
    return pixels
