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


def targets_from_instances(instances: Sequence[Instances], canvas: tuple[int, int]) -> list[Target]:
    """Pad each image's masks (`gt_masks` (N, h, w) bool, `gt_classes` (N,)) to the canvas with False."""
    targets = []
    for image in instances:
        h, w = image.gt_masks.shape[-2:]
        masks = F.pad(image.gt_masks, (0, canvas[1] - w, 0, canvas[0] - h))
        targets.append(Target(image.gt_classes, masks))
    return targets
