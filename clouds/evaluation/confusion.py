"""Confusion matrix of semantic segmentation, and the scores derived from it.

Dimensions: C classes without void. The matrix is (C+1, C+1): rows are predictions, columns are the ground truth, the
last column counts ignored pixels, and the last row is zero because a prediction is always a class.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clouds.data.classes import IGNORE_LABEL
from clouds.data.protocols import Absent
from clouds.evaluation.files import class_iou
from clouds.utils.transfer import upload

_IDS = IGNORE_LABEL + 1  # values of a label map
_COPIES = 32  # counters of each cell on an accelerator, so that neighboring pixels do not wait for each other


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count the pixels of each pair of predicted and true class. On an accelerator, nothing waits for the result.

    Args:
        prediction: (H, W) integer tensor, 0..C-1.
        truth: (H, W) integer tensor on any device, 0..C-1 or 255.
        num_classes: C, number of classes without void, at most 254.

    Returns:
        (C+1, C+1) int64 on the device of `prediction`. On an accelerator, pixels whose ids are out of range are counted
        in the last cell.

    Raises:
        ValueError: the shapes differ, or, on a CPU, an id is out of range.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in size")
    truth = upload(_as_bytes(truth), prediction.device)
    cells = _as_bytes(prediction).to(torch.int32).mul_(_IDS).add_(truth)
    pairs = _histogram(cells.flatten(), _IDS * _IDS).reshape(_IDS, _IDS)
    matrix = pairs.new_zeros(num_classes + 1, num_classes + 1)
    matrix[:-1, :-1] = pairs[:num_classes, :num_classes]
    matrix[:-1, -1] = pairs[:num_classes, IGNORE_LABEL]
    stray = cells.numel() - matrix.sum()
    if stray.device.type != "cpu":
        matrix[-1, -1] = stray
    elif stray:
        named = "prediction" if pairs[num_classes:].any() else "truth"
        raise ValueError(f"{named} has ids outside 0..{num_classes - 1}")
    return matrix


def _as_bytes(labels: torch.Tensor) -> torch.Tensor:
    """Convert ids to uint8. Those outside 0..255 become 254, which is out of range, too."""
    if labels.dtype == torch.uint8:
        return labels
    return labels.where((labels >= 0) & (labels <= IGNORE_LABEL), IGNORE_LABEL - 1).to(torch.uint8)


def _histogram(cells: torch.Tensor, size: int) -> torch.Tensor:
    """Count the values 0..size-1 of (N,) int32: (size,) int64."""
    if cells.device.type == "cpu":
        return torch.bincount(cells, minlength=size)
    return _accelerated_histogram(cells, size)


def _accelerated_histogram(cells: torch.Tensor, size: int) -> torch.Tensor:
    """Count like `_histogram`. `torch.bincount` would wait for the device to find the largest value."""
    copies = torch.arange(len(cells), device=cells.device) % _COPIES
    counts = torch.zeros(size * _COPIES, dtype=torch.int64, device=cells.device)
    counts.scatter_add_(0, cells.long() * _COPIES + copies, torch.ones_like(cells, dtype=torch.int64))
    return counts.view(size, _COPIES).sum(dim=1)


@dataclass(frozen=True)
class Scores:
    """Scores in percent; nan if the ground truth has no pixel of the class, or no pixel at all.

    With TP, FP and FN counted over all pixels that are not ignored: IoU_c = TP / (TP + FP + FN), ACC_c = TP / (TP +
    FN). Means are taken over the classes that have a value. A class that is predicted but not in the ground truth has
    no IoU, or with the rule "zero" an IoU of 0, as cityscapesscripts and mmsegmentation count it; its pixels count as
    false negatives of other classes. A class that is in neither has none. The rules agree where every class occurs.

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


def score(matrix: npt.NDArray[np.int64], absent: Absent = "left_out") -> Scores:
    """Compute the scores of a (C+1, C+1) confusion matrix.

    Args:
        matrix: sum of `confusion_matrix` over a set.
        absent: rule for a class that is predicted but not in the ground truth: it has no IoU, or one of 0.
    """
    counts = matrix[:-1, :-1].astype(np.float64)
    right, predicted, true = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present = true > 0
    iou = class_iou(np.stack([right, predicted, true]), absent)
    acc = np.divide(100 * right, true, out=np.full_like(right, np.nan), where=present)
    if not present.any():
        return Scores(np.nan, np.nan, np.nan, np.nan, iou, acc)
    return Scores(
        miou=float(np.nanmean(iou)),
        fwiou=float((iou[present] * true[present]).sum() / true.sum()),
        macc=float(acc[present].mean()),
        pacc=float(100 * right.sum() / true.sum()),
        iou=iou,
        acc=acc,
    )
