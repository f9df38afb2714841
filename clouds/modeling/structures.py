"""Data that passes between the loader, the model, the criterion and self-training.

Letters: B images, Q queries, K classes, N targets of an image, h x w mask logits, H x W canvas.

A batch is a list of dicts, one per image, in detectron2's format. The mapper writes
    `image`: (3, h, w) uint8 or float RGB in 0..255, the view that the student sees;
    `image_clean`: (3, h, w), the view of a generated image without color jitter; absent where it equals `image`;
    `instances`: `gt_classes` (N,) int64 and `gt_masks` (N, h, w) bool of a labelled image;
    `is_generated`: True for a generated image, which has no label map; absent or False otherwise;
    `truth`: (h, w) uint8 label map of a generated image, 255 = ignore; used for measurements only;
    `seed`: int in [0, 2**63) that fixes the random points of the image's loss and of its prompts;
    `height`, `width`: size in pixels of the scores that inference returns; default h, w.
The labelling stage of joint training adds
    `instances`: the pseudo-label of a generated image, in the format above;
    `canvas`: (H, W), the padded size of the batch, equal in all dicts; default: the model computes it;
    `features`: the backbone's maps (B, C, H / stride, W / stride) of the whole batch by name, the same dict of tensors
        in every image's dict; default: the model computes them.
The canvas is the largest height and width over all images of all processes, rounded up to the model's
`size_divisibility`; an image lies in its upper left corner.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from clouds.d2 import Instances

ImageDict = dict[str, Any]
"""One image of a batch; the module's docstring lists the entries."""


class Prediction(NamedTuple):
    """Output of one decoder layer.

    Attributes:
        class_logits: (B, Q, K + 1) float, void last.
        mask_logits: (B, Q, h, w) float, at the stride of the mask features.
    """

    class_logits: Tensor
    mask_logits: Tensor


class Target(NamedTuple):
    """Classes and masks of one image, from ground truth or pseudo-labels.

    Attributes:
        labels: (N,) int64 in [0, K).
        masks: (N, h, w) bool, at the size of the image or padded to the canvas.
    """

    labels: Tensor
    masks: Tensor


def pad_target(target: Target, canvas: tuple[int, int]) -> Target:
    """Pad the masks (N, h, w) of a target to (N, H, W) with False, at the bottom and on the right."""
    h, w = target.masks.shape[-2:]
    return Target(target.labels, F.pad(target.masks, (0, canvas[1] - w, 0, canvas[0] - h)))


def targets_from_instances(instances: Sequence[Instances], canvas: tuple[int, int]) -> list[Target]:
    """Convert `gt_classes` (N,) and `gt_masks` (N, h, w) bool of each image to targets on the canvas."""
    return [pad_target(Target(image.gt_classes, image.gt_masks), canvas) for image in instances]


def instances_from_target(target: Target) -> Instances:
    """Convert a target to `Instances` of the size of its masks, with `gt_classes` and `gt_masks`."""
    height, width = target.masks.shape[-2:]
    instances = Instances((height, width))
    instances.gt_classes = target.labels
    instances.gt_masks = target.masks
    return instances
