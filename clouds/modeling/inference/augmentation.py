"""Test-time augmentation: the scores of an image, averaged over its views.

Letters: K classes, h x w a view, H x W image.
"""

from collections.abc import Callable, Iterable

from torch import Tensor

from clouds.modeling.structures import ImageDict

SCALES = (0.75, 1.0, 1.25)
"""Factors of the network's usual input size."""


def augmented_scores(predict: Callable[[ImageDict], Tensor], views: Iterable[ImageDict]) -> Tensor:
    """Average the scores of an image over its views and the mirror image of each.

    Args:
        predict: returns the scores (K, H, W) of a view, at the size of the image.
        views: image dicts of one image, whose `image`, (3, h, w), has several sizes.

    Returns:
        (K, H, W) scores.

    Raises:
        ValueError: there is no view.
    """
    total, count = None, 0
    for view in views:
        mirrored = predict({**view, "image": view["image"].flip(-1)}).flip(-1)
        for scores in (predict(view), mirrored):
            total = scores if total is None else total.add_(scores)
            count += 1
    if total is None:
        raise ValueError("views is empty; give at least one view of the image")
    return total.div_(count)
