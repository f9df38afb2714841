"""Confusion matrix of semantic segmentation, and the scores derived from it.

Dimensions: C classes without void. The matrix is (C+1, C+1): rows are predictions, columns are the ground truth, the
last column counts ignored pixels, and the last row is zero because a prediction is always a class.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clouds.data.classes import IGNORE_LABEL


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count the pixels of each pair of predicted and true class.

    Args:
        prediction: (H, W) integer tensor, 0..C-1.
        truth: (H, W) integer tensor on any device, 0..C-1 or 255.
        num_classes: C, number of classes without void.

    Returns:
        (C+1, C+1) int64 on the device of `prediction`.

    Raises:
        ValueError: the shapes differ, or an id is out of range.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in size")
    truth = truth.to(prediction.device)
    truth = torch.where(truth == IGNORE_LABEL, num_classes, truth)
    for name, ids, largest in (("prediction", prediction, num_classes - 1), ("truth", truth, num_classes)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) <= largest:
            raise ValueError(f"{name} has ids outside 0..{num_classes - 1}")
    side = num_classes + 1
    # The narrowest type that can number the cells: counting is limited by memory, and int64 takes four times as long.
    dtype = torch.int16 if side * side <= torch.iinfo(torch.int16).max else torch.int64
    cells = prediction.to(dtype) * side + truth
    return torch.bincount(cells.flatten(), minlength=side * side).reshape(side, side)


@dataclass(frozen=True)
class Scores:
    """Scores in percent; nan if the ground truth has no pixel of the class, or no pixel at all.

    With TP, FP and FN counted over all pixels that are not ignored: IoU_c = TP / (TP + FP + FN), ACC_c = TP / (TP +
    FN). Means are taken over the classes in the ground truth. A class that is predicted but not in the ground truth has
    no score of its own; its pixels count as false negatives of other classes. (Cityscapes' script gives such a class an
    IoU of 0. The two agree where every class occurs.)

    Attributes:
        miou: mean of IoU_c.
        fwiou: mean of IoU_c, weighted by the share of the class in the pixels of the ground truth.
        macc: mean of ACC_c.
        pacc: share of the pixels with the right class.
        iou: (C,) IoU_c.
        acc: (C,) ACC_c.
    """

    miou: float
    fwiou: float
    macc: float
    pacc: float
    iou: npt.NDArray[np.float64]
    acc: npt.NDArray[np.float64]


def score(matrix: npt.NDArray[np.int64]) -> Scores:
    """Compute the scores of a (C+1, C+1) confusion matrix."""
    counts = matrix[:-1, :-1].astype(np.float64)
    right, predicted, true = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present = true > 0
    iou = _percent(right, predicted + true - right, present)
    acc = _percent(right, true, present)
    if not present.any():
        return Scores(np.nan, np.nan, np.nan, np.nan, iou, acc)
    return Scores(
        miou=float(iou[present].mean()),
        fwiou=float((iou[present] * true[present]).sum() / true.sum()),
        macc=float(acc[present].mean()),
        pacc=float(100 * right.sum() / true.sum()),
        iou=iou,
        acc=acc,
    )


def _percent(
    part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64], where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    return np.divide(100 * part, whole, out=np.full_like(part, np.nan), where=where)
