"""Semantic segmentation scores from one confusion matrix. Pure functions.

Legend: C classes; M the (C+1, C+1) matrix of pixel counts with predictions as rows, ground truth as columns, and the
ignored pixels in the last column (the last row stays empty: a prediction is always a class).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clouds.data.classes import IGNORE_LABEL


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count the pixels of each (predicted, true) pair.

    Args:
        prediction: (H, W) integer tensor, 0..C-1.
        truth: (H, W) integer tensor on any device, 0..C-1 or 255.
        num_classes: C.

    Returns:
        (C+1, C+1) int64 on `prediction`'s device.

    Raises:
        ValueError: the shapes differ or an id is out of range.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and ground truth {tuple(truth.shape)} differ in size")
    truth = truth.to(prediction.device)
    truth = torch.where(truth == IGNORE_LABEL, num_classes, truth)
    for what, ids, most in (("prediction", prediction, num_classes - 1), ("ground truth", truth, num_classes)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) <= most:
            raise ValueError(f"{what} holds ids outside 0..{num_classes - 1}")
    side = num_classes + 1
    # The narrowest type that holds a cell's number: counting is memory-bound, and int64 takes four times as long.
    cell = torch.int16 if side * side <= torch.iinfo(torch.int16).max else torch.int64
    cells = prediction.to(cell) * side + truth
    return torch.bincount(cells.flatten(), minlength=side * side).reshape(side, side)


@dataclass(frozen=True)
class Scores:
    """In percent; nan = not defined, because the ground truth has no pixel of the class (or of any).

    With TP, FP, FN counted over all pixels that are not ignored: IoU_c = TP / (TP + FP + FN), ACC_c = TP / (TP + FN).
    The means run over the classes that occur in the ground truth; fwIoU weighs IoU_c with the class's share of the
    pixels; pACC is the share of the pixels that are right. A class that is predicted but never occurs costs the others
    their pixels and has no score itself. (Cityscapes' own script gives it an IoU of 0; where every class occurs the two
    agree.)
    """

    miou: float
    fwiou: float
    macc: float
    pacc: float
    iou: npt.NDArray[np.float64]  # (C,)
    acc: npt.NDArray[np.float64]  # (C,)


def score(matrix: npt.NDArray[np.int64]) -> Scores:
    """The scores of a (C+1, C+1) confusion matrix."""
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
