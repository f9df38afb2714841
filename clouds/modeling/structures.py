"""Data that passes between the loader, the model, the criterion and self-training.

Letters: B images, Q queries, K classes, N targets of an image, h x w mask logits, H x W canvas.

A batch is a list of dicts, one per image, in detectron2's format. The mapper writes
    `image`: (3, h, w) uint8 or float RGB in 0..255, the view that the student sees;
    `image_clean`: (3, h, w), the view of a generated image without color jitter; absent where it equals `image`;
    `sem_seg`: (h, w) uint8 label map of a labelled image, train ids, 255 = ignore;
    `sem_seg_classes`: list of the train ids in `sem_seg`, ascending, without 255; default: the model looks for them;
    `is_generated`: True for a generated image, which has no label map; absent or False otherwise;
    `truth`: (h, w) uint8 label map of a generated image, 255 = ignore; used for measurements only;
    `seed`: int in [0, 2**63) that fixes the random points of the image's loss and of its prompts;
    `height`, `width`: size in pixels of the scores that inference returns; default h, w.
A prediction may add
    `classes`: names of the classes to predict, equal in all dicts; default: the test classes of the model;
    `views`: for several scales, the image (3, h, w) at each of them; `image` has the usual size.
The labelling stage of joint training adds
    `instances`: the pseudo-label of a generated image, `gt_classes` (N,) int64 and `gt_masks` (N, h, w) bool;
    `canvas`: (H, W), the padded size of the batch, equal in all dicts; default: the model computes it;
    `features`: the backbone's maps (B, C, H / stride, W / stride) of the whole batch by name, the same dict of tensors
        in every image's dict; default: the model computes them.
Gradient accumulation, which divides a batch into parts, adds the `canvas` of the whole batch and
    `other_targets`: numbers of targets of the images in the other parts, equal in all dicts; default: none.
A mapper may also write `instances` itself, as detectron2's do; they then take the place of `sem_seg`.
The canvas is the largest height and width over all images of all processes, rounded up to the model's
`size_divisibility`; an image lies in its upper left corner.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.d2 import Instances
from clouds.data.classes import IGNORE_LABEL
from clouds.utils.transfer import stack_views, upload

ImageDict = dict[str, Any]
"""One image of a batch; the module's docstring lists the entries."""


class HandedOut(dict[str, Tensor]):
    """Feature maps by name, each of which is removed when it is read, so that its memory is freed after its use."""

    def __getitem__(self, name: str) -> Tensor:
        return self.pop(name)


class MaskFactors(NamedTuple):
    """Factors of mask logits, whose product is `clouds.modeling.layers.mask_products`.

    Attributes:
        embeddings: (B, Q, E) float, mask embeddings of the queries.
        features: (B, E, h, w) float, mask features, which all decoder outputs share.
    """

    embeddings: Tensor
    features: Tensor


class Prediction(NamedTuple):
    """Output of one decoder layer.

    Attributes:
        class_logits: (B, Q, K + 1) float, void last.
        mask_logits: (B, Q, h, w) float, at the stride of the mask features.
        mask_factors: factors of the mask logits, which then carry no gradient: the loss multiplies the factors again
            for the few queries that are matched. None where the mask logits carry the gradient themselves.
    """

    class_logits: Tensor
    mask_logits: Tensor
    mask_factors: MaskFactors | None = None


class Target(NamedTuple):
    """Classes and masks of one image, from ground truth or pseudo-labels.

    Attributes:
        labels: (N,) int64 in [0, K).
        masks: (N, h, w) bool, at the size of the image or padded to the canvas.
    """

    labels: Tensor
    masks: Tensor


def image_sizes(batched_inputs: Sequence[ImageDict]) -> list[tuple[int, int]]:
    """Return (h, w) of each image."""
    return [(x["image"].shape[-2], x["image"].shape[-1]) for x in batched_inputs]


def output_sizes(batched_inputs: Sequence[ImageDict]) -> list[tuple[int, int]]:
    """Return (height, width) of each result: the entries of these names, by default the size of the image."""
    sizes = zip(batched_inputs, image_sizes(batched_inputs), strict=True)
    return [(x.get("height", h), x.get("width", w)) for x, (h, w) in sizes]


def pad_target(target: Target, canvas: tuple[int, int]) -> Target:
    """Pad the masks (N, h, w) of a target to (N, H, W) with False, at the bottom and on the right."""
    return Target(target.labels, _pad(target.masks, canvas, False))


def batch_targets(batch: Sequence[ImageDict], canvas: tuple[int, int], device: torch.device) -> list[Target]:
    """Return the targets of labelled images on a device: of `instances`, or of `sem_seg` where there are none.

    Args:
        batch: image dicts, each with `instances` or `sem_seg`.
        canvas: (H, W).
        device: device of the targets.
    """
    from_maps = iter(targets_from_label_maps([x for x in batch if "instances" not in x], canvas, device))
    return [
        targets_from_instances([x["instances"].to(device)], canvas)[0] if "instances" in x else next(from_maps)
        for x in batch
    ]


def targets_from_label_maps(batch: Sequence[ImageDict], canvas: tuple[int, int], device: torch.device) -> list[Target]:
    """Convert label maps to targets on the canvas and on a device, with one mask for each class that occurs.

    Two tensors are uploaded, the label maps and their classes, and one comparison makes all masks of the batch.

    Args:
        batch: image dicts with `sem_seg`, (h, w) integer train ids, 255 = ignore, and optionally `sem_seg_classes`.
        canvas: (H, W).
        device: device of the targets.

    Returns:
        One target per image, its classes in ascending order.
    """
    if not batch:
        return []
    classes = [present_classes(x) for x in batch]
    most = max(map(len, classes))
    # Rows are filled up with ids that no class has; the masks of these are never looked at.
    table = torch.tensor(
        [[*present, *[IGNORE_LABEL] * (most - len(present))] for present in classes], dtype=torch.uint8
    )
    maps = [x["sem_seg"].to(torch.uint8) for x in batch]
    if len({label_map.shape for label_map in maps}) > 1:
        maps = [_pad(label_map, canvas, IGNORE_LABEL) for label_map in maps]
    labels = _pad(upload(stack_views(maps), device), canvas, IGNORE_LABEL)
    table = upload(table.view(len(batch), most), device)
    masks = labels[:, None] == table[:, :, None, None]
    return [Target(*pair) for pair in zip(_rows(table.long(), classes), _rows(masks, classes), strict=True)]


def _rows(values: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the first N entries of each row of (B, most, ...), N being the number of the row's classes."""
    return [row[: len(present)] for row, present in zip(values, classes, strict=True)]


def present_classes(x: ImageDict) -> Sequence[int]:
    """Return the train ids in the label map of an image, ascending, without 255."""
    return x["sem_seg_classes"] if "sem_seg_classes" in x else classes_in(x["sem_seg"])


def count_targets(batch: Sequence[ImageDict]) -> list[int]:
    """Return the number of targets of each image, see `batch_targets`."""
    return [len(x["instances"].gt_classes) if "instances" in x else len(present_classes(x)) for x in batch]


def classes_in(label_map: Tensor) -> list[int]:
    """Return the train ids in a label map, ascending, without 255."""
    return [int(value) for value in label_map.unique().tolist() if value != IGNORE_LABEL]


def _pad(maps: Tensor, canvas: tuple[int, int], value: float) -> Tensor:
    """Pad maps (..., h, w) to (..., H, W) with a value, at the bottom and on the right."""
    h, w = maps.shape[-2:]
    return maps if (h, w) == tuple(canvas) else F.pad(maps, (0, canvas[1] - w, 0, canvas[0] - h), value=value)


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
