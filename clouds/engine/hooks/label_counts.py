"""Counts of the pixels that SAM keeps, changes or drops, which add up over images and processes. Pure functions.

They stay on the device, and the host does not wait for them before `scalars`.

Letters: C classes, H x W an image, N classes of its pseudo-label.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clouds.d2 import comm
from clouds.data.classes import IGNORE_LABEL, short_name
from clouds.evaluation.confusion import confusion_matrix, score
from clouds.modeling.structures import Target
from clouds.self_training.pseudo_labels import PseudoLabel

FATES = ("kept", "changed", "dropped")
"""Effect of SAM on a pixel that the teacher has labelled (see `fates`)."""

Counts = dict[str, Tensor]
"""Numbers of pixels, int64 on one device.

`fates` (C, 3): by the teacher's class and the effect of SAM.
`teacher`, `refined` (C + 2, C + 2): confusion matrices of the labels before and after SAM, for images whose truth is
known. A pixel without a label has the predicted class C and counts as missed.
`agreement` (2,): pixels on which student and teacher agree, and pixels that were compared.
"""


def no_counts(num_classes: int, device: torch.device | str = "cpu") -> Counts:
    """Return counts that are all 0, on a device."""
    side = num_classes + 2
    sizes = {"fates": (num_classes, len(FATES)), "teacher": (side, side), "refined": (side, side), "agreement": (2,)}
    return {name: torch.zeros(size, dtype=torch.int64, device=device) for name, size in sizes.items()}


def count(label: PseudoLabel, num_classes: int) -> Counts:
    """Count the pixels of one pseudo-label, all but `agreement`."""
    counts = {"fates": fates(label.teacher_map, label.refined, num_classes)}
    if label.truth is not None:
        maps = {"teacher": label.teacher_map, "refined": painted(label.refined, label.teacher_map.shape)}
        for name, labels in maps.items():
            predicted = torch.where(labels == IGNORE_LABEL, num_classes, labels)
            counts[name] = confusion_matrix(predicted, label.truth, num_classes + 1)
    return counts


def fates(teacher: Tensor, refined: Target, num_classes: int) -> Tensor:
    """Count the pixels that the teacher labels, by its class and by the effect of SAM.

    A pixel is kept if a mask of its class covers it, changed if only masks of other classes do, and dropped if no mask
    does.

    Args:
        teacher: (H, W) uint8 label map, 255 = no label.
        refined: target with masks of at least H x W; each class occurs once.
        num_classes: C.

    Returns:
        (C, 3) int64.
    """
    height, width = teacher.shape
    masks = refined.masks[:, :height, :width]
    teacher = teacher.to(masks.device).long()
    position = torch.full((IGNORE_LABEL + 1,), len(masks), device=masks.device)
    position[refined.labels] = torch.arange(len(masks), device=masks.device)
    or_none = torch.cat([masks, masks.new_zeros(1, height, width)])
    kept = or_none.gather(0, position[teacher][None])[0]
    fate = torch.where(kept, 0, torch.where(masks.any(dim=0), 1, 2))
    # Pixels without a label are counted in one more row. Added up by scatter, as bincount waits for a GPU.
    cells = len(FATES) * teacher.clamp(max=num_classes) + fate
    counts = cells.new_zeros((num_classes + 1) * len(FATES))
    counts.scatter_add_(0, cells.flatten(), torch.ones_like(cells).flatten())
    return counts.view(-1, len(FATES))[:num_classes]


def painted(refined: Target, size: Sequence[int]) -> Tensor:
    """Convert a target to a label map (H, W) uint8, 255 = no mask; where masks overlap, the highest class counts.

    Args:
        refined: target with masks of at least H x W.
        size: H, W.
    """
    height, width = size
    labels = torch.full((height, width), IGNORE_LABEL, dtype=torch.uint8, device=refined.masks.device)
    for label, mask in zip(refined.labels.to(torch.uint8), refined.masks[:, :height, :width], strict=True):
        labels = torch.where(mask, label, labels)
    return labels


def sum_over_processes(counts: Counts) -> Counts:
    """Add up the counts of all processes, which call this together, on their devices."""
    if comm.get_world_size() == 1:
        return counts
    joined = torch.cat([part.flatten() for part in counts.values()])
    torch.distributed.all_reduce(joined)
    parts = joined.split([part.numel() for part in counts.values()])
    return {name: part.view_as(counts[name]) for name, part in zip(counts, parts, strict=True)}


def total(parts: Sequence[Counts]) -> Counts:
    """Add up counts. Entries may be missing in all but the first."""
    return {name: torch.stack([part[name] for part in parts if name in part]).sum(dim=0) for name in parts[0]}


def scalars(counts: Counts, classes: Sequence[str], *, refines: bool) -> dict[str, float]:
    """Convert counts to scalars in percent. A scalar without observations is left out.

    `kept`, `changed` and `dropped` are shares of the pixels that the teacher labelled, `kept-road` and so on of those
    with this class. `agreement` is the share on which student and teacher agree. `mIoU_teacher` and `mIoU_refined` are
    the scores of the labels before and after SAM.

    Args:
        counts: counts of any number of images, on the CPU.
        classes: C class names.
        refines: whether SAM refines the labels; if not, there are only `agreement` and `mIoU_teacher`.
    """
    values: dict[str, float] = {}
    if refines:
        names = ["", *(f"-{short_name(name)}" for name in classes)]
        for name, row in zip(names, [counts["fates"].sum(dim=0), *counts["fates"]], strict=True):
            if row.any():
                shares = (100 * row / row.sum()).tolist()
                values |= {f"{fate}{name}": share for fate, share in zip(FATES, shares, strict=True)}
    same, compared = counts["agreement"].tolist()
    if compared:
        values["agreement"] = 100 * same / compared
    for name in ("teacher", "refined") if refines else ("teacher",):
        miou = score(counts[name].numpy()).miou
        if np.isfinite(miou):
            values[f"mIoU_{name}"] = miou
    return values
