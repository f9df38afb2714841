"""Scores of an image from several forward passes: sliding window and test-time augmentation.

Each view of an image is divided into windows. The scores of the windows and of their mirror images are averaged where
they overlap, and the scores of the views once more.

Letters: K classes, h x w network input of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import CfgNode
from clouds.modeling.inference.strips import Halved
from clouds.modeling.structures import ImageDict
from clouds.utils.sizes import Size, square_window

_in_groups = Halved(8, "groups of {} windows")


@dataclass(frozen=True)
class Passes:
    """Forward passes from which the scores of an image are averaged; by default there is one.

    Attributes:
        window: (height, width) in pixels of the network's input; it is cut to a smaller image. None: the whole image.
        stride: distance (down, right) of two windows in pixels; None: that of windows side by side.
        scales: factors of the network's input size, one for each view.
        flip: whether the mirror image of each window is predicted, too.

    Raises:
        ValueError: the window is empty, the stride is 0 or leaves gaps between windows, or a scale is not above 0.
    """

    window: Size | None = None
    stride: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.window is not None and min(self.window) < 1:
            raise ValueError(f"window is {self.window}; it must have at least one pixel")
        if self.stride is not None:
            if self.window is None:
                raise ValueError(f"stride is {self.stride}, but there is no window")
            if not all(0 < step <= side for step, side in zip(self.stride, self.window, strict=True)):
                raise ValueError(f"stride is {self.stride}; it must be from 1 to the window, {self.window}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales is {self.scales}; it must have one number above 0 or more")

    @property
    def is_single(self) -> bool:
        """Whether this is one pass over the whole image."""
        return self == Passes()


def build_passes(cfg: CfgNode, *, augment: bool | None = None) -> Passes:
    """Return the passes of a config.

    Args:
        cfg: config.
        augment: whether there are several views; default: ``TEST.AUG.ENABLED``.
    """
    window, stride = square_window(cfg.TEST.WINDOW, cfg.TEST.STRIDE)
    augmentation = cfg.TEST.AUG
    if not (augmentation.ENABLED if augment is None else augment):
        return Passes(window, stride)
    return Passes(window, stride, tuple(augmentation.SCALES), augmentation.FLIP)


def window_corners(size: Size, window: Size, stride: Size) -> list[Size]:
    """Return the upper left corners (top, left) of the windows that cover an image, row by row.

    The last window of a row or column ends at the border of the image, as in mmsegmentation. A side of the window that
    is longer than that of the image begins at 0.

    Args:
        size: (h, w) of the image.
        window: (height, width).
        stride: distance (down, right) of two windows, at most the window.
    """
    tops, lefts = (
        [*range(0, length - side, step), max(length - side, 0)]
        for length, side, step in zip(size, window, stride, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]


def averaged_scores(model: nn.Module, sample: ImageDict, passes: Passes) -> Tensor:
    """Predict the scores of an image at the network's input size, so that memory does not grow with the result.

    Args:
        model: model in evaluation mode, which returns a dict with new scores in `sem_seg` for each image dict.
        sample: image dict with `image`, (3, h, w). With other scales than 1, `views` has the image at each of them, see
            `scaled_size`. Other entries, such as `classes`, are handed to the model.
        passes: forward passes.

    Returns:
        (K, h, w) float32 scores.

    Raises:
        ValueError: there is not one view for each scale.
    """
    views = sample.get("views", [sample["image"]])
    if len(views) != len(passes.scales):
        raise ValueError(f"sample has {len(views)} views; it must have one for each of the {len(passes.scales)} scales")
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    size, total = _size(sample["image"]), None
    # The largest view first: the tensors of the others fit into the memory that it frees.
    for view in sorted(views, key=Tensor.numel, reverse=True):
        compute = partial(_view_scores, model, {**sample, "image": view}, passes)
        # On a CPU, a group takes as long as its windows one by one, and more memory.
        scores = compute(1) if device.type == "cpu" else _in_groups(compute, device)
        if _size(scores) != size:
            scores = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
        total = scores if total is None else total.add_(scores)
    assert total is not None
    return total if len(views) == 1 else total.div_(len(views))


def _view_scores(model: nn.Module, view: ImageDict, passes: Passes, number: int) -> Tensor:
    """Return the scores (K, h, w) of a view, from forward passes with a number of windows each."""
    size = _size(view["image"])
    height, width = (min(sides) for sides in zip(passes.window or size, size, strict=True))
    corners = window_corners(size, (height, width), passes.stride or passes.window or size)
    windows = [
        _Window(slice(top, top + height), slice(left, left + width), flipped)
        for top, left in corners
        for flipped in ((False, True) if passes.flip else (False,))
    ]
    if len(windows) == 1:
        return _predict(model, view, windows)[0]
    total, count = None, torch.zeros(size)
    for start in range(0, len(windows), number):
        total = _added(total, model, view, windows[start : start + number])
    assert total is not None
    for window in windows:
        count[window.rows, window.columns] += 1
    return total.div_(count.to(total.device))


class _Window(NamedTuple):
    """Part of a view, or its mirror image."""

    rows: slice
    columns: slice
    flipped: bool


def _added(total: Tensor | None, model: nn.Module, view: ImageDict, windows: Sequence[_Window]) -> Tensor:
    """Add the scores of windows to a sum (K, h, w), in place; None is 0."""
    scores = _predict(model, view, windows)
    if total is None:
        total = scores[0].new_zeros(len(scores[0]), *_size(view["image"]))
    for window, each in zip(windows, scores, strict=True):
        # Class by class, so that there is no mirror image of all scores.
        for sums, values in zip(total[:, window.rows, window.columns], each, strict=True):
            sums += values.flip(-1) if window.flipped else values
    return total


def _predict(model: nn.Module, view: ImageDict, windows: Sequence[_Window]) -> list[Tensor]:
    """Return the scores (K, height, width) of each window in one forward pass, float32."""
    parts = [view["image"][:, window.rows, window.columns] for window in windows]
    images = [part.flip(-1) if window.flipped else part for part, window in zip(parts, windows, strict=True)]
    height, width = _size(images[0])
    outputs = model([{**view, "image": image, "height": height, "width": width} for image in images])
    return [output["sem_seg"].float() for output in outputs]


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]
