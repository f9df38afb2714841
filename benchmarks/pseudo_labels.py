"""Time and memory of pseudo-labelling without the networks, relative to the published steps.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/pseudo_labels.py

Both get one label map (768 x 768, 19 classes, about 60 large components, and specks as a network predicts them) and
one stand-in for SAM: three masks and their qualities per prompt. The peer takes the published steps one by one with
scipy and torch: a full-size mask per class, its components, a full-size mask per component, all its coordinates to draw
points from, best masks, pixels in several masks removed, masks regrouped and united by class.

Seconds are processor time on one thread. Memory is the rise of the resident set's high-water mark above the inputs,
each measured in a fresh process (Linux: /proc). The two results are compared; they may differ only where two masks of
one class overlap: the published steps remove these pixels, ours do not.
"""

import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from scenes import CLASSES, IGNORE, label_map
from scipy import ndimage
from torch import Tensor

from clouds.commands.entry import user_errors
from clouds.modeling.structures import Target
from clouds.self_training.regions import choose_points, find_regions, merge_masks, select_best
from clouds.utils.arguments import CommandParser, positive_int, seed

_MIN_AREA = 5000
_POINTS = 5


def scene(size: int, seed: int) -> np.ndarray:
    return label_map((size, size), seed, specks=0.002)


def sam_masks(labels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Return masks (P, 3, H, W) bool and qualities (P, 3) float: each region eroded, dilated a little or much."""
    ids = find_regions(labels, min_area=_MIN_AREA).ids
    masks = torch.empty((ids.max(), 3, *ids.shape), dtype=torch.bool)
    for index in range(len(masks)):
        mask = (ids == index + 1).astype(np.uint8)
        views = cv2.erode(mask, np.ones((5, 5))), cv2.dilate(mask, np.ones((7, 7))), cv2.dilate(mask, np.ones((21, 21)))
        masks[index] = torch.from_numpy(np.stack(views)).bool()
    return masks, torch.rand(len(masks), 3, generator=torch.Generator().manual_seed(seed))


def published_prompts(labels: np.ndarray, seed: int) -> tuple[dict[int, list[Tensor]], dict[int, np.ndarray]]:
    """Return points per component and the masks of the components, both by class; the masks stay in memory."""
    rng = np.random.default_rng(seed)
    class_map = torch.from_numpy(labels)
    classes = [c for c in class_map.unique(sorted=True).tolist() if c != IGNORE]
    class_masks = torch.stack([(class_map == c).float() for c in classes])
    components: dict[int, np.ndarray] = {}
    for c, class_mask in zip(classes, class_masks.numpy(), strict=True):
        numbered, count = ndimage.label(class_mask)
        areas = ndimage.sum_labels(class_mask, numbered, range(count + 1))
        large = [index for index in range(1, count + 1) if areas[index] > _MIN_AREA]
        components[c] = np.array([(numbered == index).astype(np.int64) for index in large])
    points: dict[int, list[Tensor]] = {}
    for c, masks in components.items():
        points[c] = []
        for mask in masks:
            places = np.argwhere(mask == 1)[:, ::-1]
            chosen = places[rng.choice(len(places), _POINTS, replace=False)]
            points[c].append(torch.tensor(chosen.copy(), dtype=torch.float32))
    return points, components


def published_target(points: dict[int, list[Tensor]], masks: Tensor, quality: Tensor) -> Target:
    best = masks[torch.arange(len(masks)), quality.max(dim=1).indices]
    best[:, best.sum(dim=0) > 1] = False
    labels, unions, begin = [], [], 0
    for c, found in points.items():
        if found:
            labels.append(c)
            unions.append(best[begin : begin + len(found)].max(dim=0).values)
            begin += len(found)
    return Target(torch.tensor(labels), torch.stack(unions))


def published(labels: np.ndarray, masks: Tensor, quality: Tensor, clock: Callable[[], None]) -> Target:
    points, components = published_prompts(labels, 0)
    clock()
    target = published_target(points, masks, quality)
    del components  # kept until here, as published
    return target


def ours(labels: np.ndarray, masks: Tensor, quality: Tensor, clock: Callable[[], None]) -> Target:
    regions = find_regions(labels, min_area=_MIN_AREA)
    prompts = choose_points(regions, num_points=_POINTS, mode="random", erosion=0, rng=np.random.default_rng(0))
    clock()
    return merge_masks(select_best(masks, quality), prompts.classes.tolist(), rm_intersection=True)


_STAGES = {"published": published, "ours": ours}


def seconds(stage: str, labels: np.ndarray, masks: Tensor, quality: Tensor) -> tuple[float, float]:
    """Return the processor time before and after SAM."""
    times = [time.process_time()]
    _STAGES[stage](labels, masks, quality, lambda: times.append(time.process_time()))
    times.append(time.process_time())
    return times[1] - times[0], times[2] - times[1]


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_bytes(stage: str, size: int, seed: int) -> int:
    """Return the peak of resident memory above the inputs. Call it once per process."""
    _one_thread()
    small = np.zeros((80, 80), np.uint8)
    _STAGES[stage](small, *sam_masks(small, seed), lambda: None)  # libraries that are loaded on the first call
    labels = scene(size, seed)
    masks, quality = sam_masks(labels, seed)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident("VmRSS")
    _STAGES[stage](labels, masks, quality, lambda: None)
    return _resident("VmHWM") - before


def _one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser("Measure pseudo-labeling without its networks relative to the published steps.")
    parser.add_argument(
        "--size", type=positive_int, default=768, help="side of the image in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=positive_int, default=7, help="number of rounds; the median is printed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the label map (default: %(default)s)")
    args = parser.parse_args(argv)
    _one_thread()
    labels = scene(args.size, args.seed)
    masks, quality = sam_masks(labels, args.seed)

    theirs, mine = (stage(labels, masks, quality, lambda: None) for stage in (published, ours))
    alone = select_best(masks, quality).sum(dim=0) == 1
    if not (theirs.labels.equal(mine.labels) and theirs.masks.equal(mine.masks & alone)):
        raise AssertionError("The two targets differ where no two masks overlap.")

    rounds = [[seconds(stage, labels, masks, quality) for stage in _STAGES] for _ in range(args.repeats)]
    columns = [[median(times) for times in zip(*column, strict=True)] for column in zip(*rounds, strict=True)]
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = [pool.apply(peak_bytes, (stage, args.size, args.seed)) for stage in _STAGES]
    rows = [
        ("label map to prompts, ms", *(1000 * before for before, _ in columns)),
        ("masks to target, ms", *(1000 * after for _, after in columns)),
        ("together, ms", *(1000 * sum(column) for column in columns)),
        ("peak memory, MB", *(peak / 1e6 for peak in peaks)),
    ]
    found = f"{args.size}x{args.size}, {CLASSES} classes, {len(masks)} regions"
    sys.stdout.write(f"{found:34s}{'published':>10s}{'ours':>10s}{'ratio':>10s}\n")
    for name, peer, own in rows:
        sys.stdout.write(f"{name:34s}{peer:10.1f}{own:10.1f}{peer / own:9.1f}x\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
