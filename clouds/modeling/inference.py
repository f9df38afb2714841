"""From queries to semantic scores and label maps, in bounded memory. Student and teacher both use it.

Letters: B images, Q queries, K classes, h x w mask logits, H x W canvas (the padded network input).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.layers import full_precision
from clouds.modeling.structures import Prediction

# 16 canvas rows of 100 masks at width 2048 take 13 MB, which a processor's cache holds; the published code upsamples
# all rows at once.
STRIP_ROWS = 16


def image_scores(
    prediction: Prediction,
    canvas: tuple[int, int],
    image_sizes: Sequence[tuple[int, int]],
    output_sizes: Sequence[tuple[int, int]],
) -> list[Tensor]:
    """Compute the class scores of each image of a batch, without padding and at the requested size.

    Args:
        prediction: output of the last decoder layer for B images.
        canvas: (H, W).
        image_sizes: size of each image on the canvas.
        output_sizes: size of each result.

    Returns:
        B tensors (K, height, width), not normalized over classes.
    """
    return [
        resize_scores(semantic_scores(class_logits, mask_logits, canvas), image_size, *output_size)
        for class_logits, mask_logits, image_size, output_size in zip(
            *prediction, image_sizes, output_sizes, strict=True
        )
    ]


def image_labels(
    prediction: Prediction,
    canvas: tuple[int, int],
    image_sizes: Sequence[tuple[int, int]],
    output_sizes: Sequence[tuple[int, int]],
    threshold: float = 0.0,
) -> list[Tensor]:
    """Compute the label map of each image of a batch: the class with the highest of the scores of `image_scores`.

    Args:
        prediction: output of the last decoder layer for B images.
        canvas: (H, W).
        image_sizes: size of each image on the canvas.
        output_sizes: size of each result.
        threshold: confidence in [0, 1]; a pixel has no label where the best class has a smaller share of the scores of
            all classes. 0 labels every pixel.

    Returns:
        B tensors (height, width) uint8 on the device of the prediction, 255 = no label.
    """
    return [label_map(scores, threshold) for scores in image_scores(prediction, canvas, image_sizes, output_sizes)]


def label_map(scores: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the best class of each pixel, 255 where its share of all classes' scores is below `threshold`.

    Args:
        scores: (K, height, width), not negative.
        threshold: confidence in [0, 1]; 0 labels every pixel.

    Returns:
        (height, width) uint8.
    """
    # max instead of argmax: on a CPU, torch computes value and index together four times faster than the index alone.
    best, classes = scores.max(dim=0)
    labels = classes.to(torch.uint8)
    return labels.masked_fill_(best < threshold * scores.sum(dim=0), IGNORE_LABEL) if threshold > 0 else labels


@full_precision
def semantic_scores(
    class_logits: Tensor, mask_logits: Tensor, canvas: tuple[int, int], strip_rows: int = STRIP_ROWS
) -> Tensor:
    """Sum class probability times mask probability over queries (MaskFormer, semantic inference).

    The masks are resized to the canvas in strips. Each strip takes one more source row on each side than it keeps, so
    that the result does not depend on the strips.

    Args:
        class_logits: (Q, K + 1), void last.
        mask_logits: (Q, h, w).
        canvas: (H, W), multiples of h and w.
        strip_rows: number of canvas rows that are resized at once.

    Returns:
        (K, H, W) scores, not normalized over classes.
    """
    (height, width), (h, w) = canvas, mask_logits.shape[-2:]
    factor = height // h
    if factor * h != height or width % w:
        raise ValueError(f"canvas is {height} x {width}; it must be a multiple of the mask logits' {h} x {w}")
    weights = class_logits.softmax(dim=-1)[:, :-1].T
    scores = mask_logits.new_empty(weights.shape[0], height, width)
    rows = max(1, strip_rows // factor)
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        first, last = max(top - 1, 0), min(bottom + 1, h)
        strip = F.interpolate(
            mask_logits[None, :, first:last],
            size=((last - first) * factor, width),
            mode="bilinear",
            align_corners=False,
        )[0, :, (top - first) * factor : (bottom - first) * factor]
        scores[:, top * factor : bottom * factor] = (weights @ strip.sigmoid_().flatten(1)).unflatten(1, (-1, width))
    return scores


def resize_scores(scores: Tensor, image_size: tuple[int, int], height: int, width: int) -> Tensor:
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
