"""The two things that travel between head, criterion and inference.

Letters: B images, Q queries, K classes, N targets of an image, h x w mask logits, H x W canvas.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from clouds.d2 import Instances


class Prediction(NamedTuple):
    """What one decoder output says.

    Attributes:
        class_logits: (B, Q, K + 1) float, void last.
        mask_logits: (B, Q, h, w) float, at the stride of the mask features.
    """

    class_logits: Tensor
    mask_logits: Tensor


class Target(NamedTuple):
    """What one image should say; ground truth and pseudo-labels alike.

    Attributes:
        labels: (N,) int64 in [0, K).
        masks: (N, H, W) bool on the padded canvas.
    """

    labels: Tensor
    masks: Tensor


def pad_target(target: Target, canvas: tuple[int, int]) -> Target:
    """The same target with its masks, (N, h, w), padded to the canvas, bottom and right with False."""
    h, w = target.masks.shape[-2:]
    return Target(target.labels, F.pad(target.masks, (0, canvas[1] - w, 0, canvas[0] - h)))


def targets_from_instances(instances: Sequence[Instances], canvas: tuple[int, int]) -> list[Target]:
    """`gt_classes` (N,) and `gt_masks` (N, h, w) bool of each image, the masks padded to the canvas."""
    return [pad_target(Target(image.gt_classes, image.gt_masks), canvas) for image in instances]
