"""Scores and label maps of a batch.

Letters: B images, K classes, H x W canvas (the padded network input).
"""

from collections.abc import Sequence

from torch import Tensor

from clouds.modeling.inference.labels import label_map
from clouds.modeling.inference.scores import resize_scores, semantic_scores
from clouds.modeling.structures import Prediction
from clouds.utils.sizes import Size


def image_scores(
    prediction: Prediction, canvas: Size, image_sizes: Sequence[Size], output_sizes: Sequence[Size]
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
            prediction.class_logits, prediction.mask_logits, image_sizes, output_sizes, strict=True
        )
    ]


def image_labels(
    prediction: Prediction,
    canvas: Size,
    image_sizes: Sequence[Size],
    output_sizes: Sequence[Size],
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
    return [
        label_map(class_logits, mask_logits, canvas, image_size, output_size, threshold)
        for class_logits, mask_logits, image_size, output_size in zip(
            prediction.class_logits, prediction.mask_logits, image_sizes, output_sizes, strict=True
        )
    ]
