"""Label maps straight from the masks: the class of the highest score, without the scores of the whole image.

`label_map` chooses among three implementations of one signature: `reference_label_map`, which works on any device,
`cells.label_map` on a CPU, and, if Triton is installed, `kernel.label_map` on CUDA.

Letters: Q queries, K classes, h x w mask logits, H x W canvas (the padded network input).
"""

import functools
import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.inference import cells
from clouds.modeling.inference.sampling import bilinear_samples
from clouds.modeling.inference.scores import (
    best_labels,
    class_probabilities,
    resize_scores,
    score_rows,
    upsampling,
)
from clouds.modeling.inference.strips import in_strips
from clouds.modeling.layers import full_precision
from clouds.utils.devices import has_triton
from clouds.utils.sizes import Size

logger = logging.getLogger(__name__)


@full_precision
def label_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Size,
    image_size: Size,
    output_size: Size,
    threshold: float = 0.0,
) -> Tensor:
    """Compute the label map of an image: the class of the highest semantic score, resized like `resize_scores`.

    Args:
        class_logits: (Q, K + 1) float, void last; K at most 255.
        mask_logits: (Q, h, w) float.
        canvas: (H, W), multiples of h and w.
        image_size: size of the image, which lies in the upper left corner of the canvas.
        output_size: size of the result.
        threshold: confidence in [0, 1]; a pixel has no label where the best class has a smaller share of the scores of
            all classes. 0 labels every pixel.

    Returns:
        (height, width) uint8, 255 = no label. Where two scores differ by rounding only, either class may win.

    Raises:
        ValueError: there are more classes than labels, or the canvas is no multiple of the mask logits.
    """
    classes = class_logits.shape[1] - 1
    if classes > IGNORE_LABEL:
        raise ValueError(f"class_logits has {classes} classes; a label map can hold {IGNORE_LABEL}")
    implementation = _implementation(mask_logits.device.type)
    return implementation(class_logits.float(), mask_logits.float(), canvas, image_size, output_size, threshold)


@functools.cache
def _implementation(device: str) -> Callable[..., Tensor]:
    """Return the fastest implementation for a type of device."""
    if device == "cpu":
        return cells.label_map
    if device != "cuda":
        return reference_label_map
    if not has_triton():
        logger.info("Triton is not installed: label maps are computed without the fused kernel")
        return reference_label_map
    from clouds.modeling.inference.kernel import label_map as fused

    return fused


def reference_label_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Size,
    image_size: Size,
    output_size: Size,
    threshold: float = 0.0,
) -> Tensor:
    """Compute a label map like `label_map`, in strips of rows, from the scores of all pixels."""
    upsampling(mask_logits, canvas)
    weights = class_probabilities(class_logits)

    def scores_of(top: int, bottom: int) -> Tensor:
        return score_rows(weights, mask_logits, canvas, top, bottom)[:, :, : image_size[1]]

    return _labels_in_strips(scores_of, image_size, output_size, mask_logits.device, threshold)


@full_precision
def labels_of_scores(scores: Tensor, output_size: Size, threshold: float = 0.0) -> Tensor:
    """Compute the label map of scores that are resized (bilinear) to another size, which are held for a few rows only.

    Args:
        scores: (K, h, w) float; not negative if there is a threshold.
        output_size: size of the result.
        threshold: confidence in [0, 1], see `label_map`.

    Returns:
        (height, width) uint8 on the device of the scores, 255 = no label.
    """
    size = scores.shape[-2], scores.shape[-1]
    return _labels_in_strips(lambda top, bottom: scores[:, top:bottom], size, output_size, scores.device, threshold)


def _labels_in_strips(
    scores_of: Callable[[int, int], Tensor], size: Size, output_size: Size, device: torch.device, threshold: float
) -> Tensor:
    def compute(strip_rows: int) -> Tensor:
        labels = torch.empty(output_size, dtype=torch.uint8, device=device)
        for rows, scores in _resized_strips(scores_of, size, output_size, device, strip_rows):
            labels[rows] = best_labels(scores, threshold)
        return labels

    return in_strips(compute, device)


def resized_strips(scores: Tensor, output_size: Size) -> Iterator[tuple[slice, Tensor]]:
    """Resize scores (K, h, w) (bilinear) to a size, a few rows at a time.

    Yields:
        Rows of the result, and their scores (K, rows, width).
    """
    size = scores.shape[-2], scores.shape[-1]
    yield from _resized_strips(
        lambda top, bottom: scores[:, top:bottom], size, output_size, scores.device, in_strips.size
    )


def _resized_strips(
    scores_of: Callable[[int, int], Tensor], size: Size, output_size: Size, device: torch.device, strip_rows: int
) -> Iterator[tuple[slice, Tensor]]:
    """Resize scores (bilinear) in strips of rows.

    Args:
        scores_of: returns the scores (K, bottom - top, w) of the rows from top to bottom, exclusive.
        size: (h, w) of all scores.
        output_size: (height, width) of the result.
        device: device of the scores.
        strip_rows: number of rows of scores in a strip.

    Yields:
        Rows of the result, and their scores (K, rows, width).
    """
    height, width = output_size
    step = max(1, strip_rows * min(height, size[0]) // size[0])
    on_host = bilinear_samples(size[0], height)  # chooses the rows of each strip
    lower, upper, weight = bilinear_samples(size[0], height, device)
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        if size == output_size:
            yield rows, scores_of(rows.start, rows.stop)
            continue
        top, bottom = int(on_host.lower[rows.start]), int(on_host.upper[rows.stop - 1]) + 1
        scores = scores_of(top, bottom)
        scores = resize_scores(scores, (bottom - top, size[1]), bottom - top, width)
        above, below = (scores[:, each[rows] - top] for each in (lower, upper))
        yield rows, above * (1 - weight[rows, None]) + below * weight[rows, None]
