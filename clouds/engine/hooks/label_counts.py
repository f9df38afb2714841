"""What became of pseudo-labels, as counts that add up over images and processes. Pure functions.

Letters: C classes; H x W an image; N classes of its refined label.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clouds.data.classes import IGNORE_LABEL, short_name
from clouds.evaluation.confusion import confusion_matrix, score
from clouds.modeling.structures import Target
from clouds.self_training.pseudo_labels import PseudoLabel

FATES = ("kept", "changed", "dropped")
"""What SAM does to a pixel that the teacher has labelled, see `fates`."""

Counts = dict[str, Tensor]
"""Pixels, int64 on the CPU.

`fates` (C, 3): by the teacher's class and what SAM did to them.
`teacher`, `refined` (C + 2, C + 2): confusion matrices of the labels before and after SAM with the truth, where it is
known. "No label" is the predicted class C, so that a pixel left without one counts as missed.
`agreement` (2,): where the student says what the teacher says, and all that were compared.
"""


def no_counts(num_classes: int) -> Counts:
    """`Counts` of nothing."""
    side = num_classes + 2
    sizes = {"fates": (num_classes, len(FATES)), "teacher": (side, side), "refined": (side, side), "agreement": (2,)}
    return {name: torch.zeros(size, dtype=torch.int64) for name, size in sizes.items()}


def count(label: PseudoLabel, num_classes: int) -> Counts:
    """What one label shows by itself."""
    counts = {"fates": fates(label.teacher_map, label.refined, num_classes)}
    if label.truth is not None:
        maps = {"teacher": label.teacher_map, "refined": painted(label.refined, label.teacher_map.shape)}
        for name, labels in maps.items():
            predicted = torch.where(labels == IGNORE_LABEL, num_classes, labels)
            counts[name] = confusion_matrix(predicted, label.truth, num_classes + 1).cpu()
    return counts


def fates(teacher: Tensor, refined: Target, num_classes: int) -> Tensor:
    """(C, 3) int64: the pixels that the teacher labels, by its class and by what SAM did to them.

    Kept: a mask of the class covers it. Changed: only masks of other classes do. Dropped: none does.

    Args:
        teacher: (H, W) uint8, 255 = no label.
        refined: masks of (N, >= H, >= W), no class twice.
        num_classes: C.
    """
    height, width = teacher.shape
    masks = refined.masks[:, :height, :width]
    teacher = teacher.to(masks.device).long()
    position = torch.full((IGNORE_LABEL + 1,), len(masks), device=masks.device)
    position[refined.labels] = torch.arange(len(masks), device=masks.device)
    or_none = torch.cat([masks, masks.new_zeros(1, height, width)])
    kept = or_none.gather(0, position[teacher][None])[0]
    fate = torch.where(kept, 0, torch.where(masks.any(dim=0), 1, 2))
    cells = (len(FATES) * teacher + fate)[teacher != IGNORE_LABEL]
    return torch.bincount(cells, minlength=num_classes * len(FATES)).reshape(num_classes, len(FATES)).cpu()


def painted(refined: Target, size: Sequence[int]) -> Tensor:
    """(H, W) uint8 map of `size`, 255 where no mask is; where masks of two classes are, the higher class."""
    height, width = size
    labels = torch.full((height, width), IGNORE_LABEL, dtype=torch.uint8, device=refined.masks.device)
    for label, mask in zip(refined.labels.tolist(), refined.masks[:, :height, :width], strict=True):
        labels[mask] = label
    return labels


def total(parts: Sequence[Counts]) -> Counts:
    """Their sum; an entry may be missing in all but the first."""
    return {name: torch.stack([part[name] for part in parts if name in part]).sum(dim=0) for name in parts[0]}


def scalars(counts: Counts, classes: Sequence[str], *, refines: bool) -> dict[str, float]:
    """The counts as numbers to look at, in percent; what was not observed is left out.

    `kept`, `changed`, `dropped`: shares of the pixels that the teacher labelled, and `kept-road`, ... of those that it
    gave this class. `agreement`: share on which the student says the same. `mIoU_teacher`, `mIoU_refined`: score of the
    labels before and after SAM. Without SAM (`refines` False) there is only `agreement` and `mIoU_teacher`.
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
