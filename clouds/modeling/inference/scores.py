"""Semantic scores, computed in strips of rows.

Letters: Q queries, K classes, h x w mask logits, H x W canvas (the padded network input).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.inference.strips import in_strips
from clouds.modeling.layers import full_precision
from clouds.utils.sizes import Size

TIE = 1e-5
"""Relative difference of two scores below which rounding could decide; the bounds of scores decide nothing then."""


@full_precision
def semantic_scores(class_logits: Tensor, mask_logits: Tensor, canvas: Size, strip_rows: int | None = None) -> Tensor:
    """Sum class probability times mask probability over queries (MaskFormer, semantic inference).

    Args:
        class_logits: (Q, K + 1), void last.
        mask_logits: (Q, h, w).
        canvas: (H, W), multiples of h and w.
        strip_rows: number of canvas rows that are resized at once, None for what fits into the memory. The result does
            not depend on it.

    Returns:
        (K, H, W) scores, not normalized over classes.
    """
    if strip_rows is None:
        return in_strips(lambda rows: semantic_scores(class_logits, mask_logits, canvas, rows), mask_logits.device)
    factor, _ = upsampling(mask_logits, canvas)
    weights = class_probabilities(class_logits)
    scores = mask_logits.new_empty(len(weights), *canvas)
    step = max(1, strip_rows // factor) * factor
    for top in range(0, canvas[0], step):
        bottom = min(top + step, canvas[0])
        scores[:, top:bottom] = score_rows(weights, mask_logits, canvas, top, bottom)
    return scores


def upsampling(mask_logits: Tensor, canvas: Size) -> Size:
    """Return the factors (H / h, W / w) between mask logits (Q, h, w) and the canvas.

    Raises:
        ValueError: they are no integers.
    """
    (height, width), (h, w) = canvas, mask_logits.shape[-2:]
    if height % h or width % w:
        raise ValueError(f"canvas is {height} x {width}; it must be a multiple of the mask logits' {h} x {w}")
    return height // h, width // w


def class_probabilities(class_logits: Tensor) -> Tensor:
    """Return the probability of each class without void: class logits (Q, K + 1) -> (K, Q)."""
    return class_logits.softmax(dim=-1)[:, :-1].T


def score_rows(weights: Tensor, mask_logits: Tensor, canvas: Size, top: int, bottom: int) -> Tensor:
    """Compute the scores of the canvas rows from `top` to `bottom`, exclusive.

    It resizes the source rows of these rows and one more on each side, so that the result does not depend on the strip.

    Args:
        weights: (K, Q) class probabilities.
        mask_logits: (Q, h, w).
        canvas: (H, W), multiples of h and w.
        top: first row.
        bottom: row after the last.

    Returns:
        (K, bottom - top, W).
    """
    factor = canvas[0] // mask_logits.shape[1]
    first, last = max(top // factor - 1, 0), min(-(-bottom // factor) + 1, mask_logits.shape[1])
    masks = F.interpolate(
        mask_logits[None, :, first:last],
        size=((last - first) * factor, canvas[1]),
        mode="bilinear",
        align_corners=False,
    )[0, :, top - first * factor : bottom - first * factor]
    return (weights @ masks.sigmoid().flatten(1)).unflatten(1, (-1, canvas[1]))


def resize_scores(scores: Tensor, image_size: Size, height: int, width: int) -> Tensor:
    """Remove the padding and resize.

    Args:
        scores: (K, H, W) on the canvas.
        image_size: size of the image, which lies in the upper left corner of the canvas.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (K, height, width).
    """
    scores = scores[:, : image_size[0], : image_size[1]]
    if scores.shape[-2:] == (height, width):
        return scores
    return F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def class_shares(scores: Tensor, dim: int = 0) -> Tensor:
    """Divide scores, which are not negative, by their sum over the classes, the dimension `dim`; same shape."""
    total = scores.sum(dim=dim, keepdim=True)
    # Where the scores of all classes are too small for a number, no class is better than another one.
    return torch.where(total > 0, scores / total, 1 / scores.shape[dim])


def best_labels(scores: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the best class at each position, 255 where its share of all classes' scores is below `threshold`.

    Args:
        scores: (K, ...), not negative.
        threshold: confidence in [0, 1]; 0 labels every position.

    Returns:
        (...) uint8.
    """
    # max instead of argmax: on a CPU, torch computes value and index together four times faster than the index alone.
    best, classes = scores.max(dim=0)
    labels = classes.to(torch.uint8)
    return labels.masked_fill_(best < threshold * scores.sum(dim=0), IGNORE_LABEL) if threshold > 0 else labels
