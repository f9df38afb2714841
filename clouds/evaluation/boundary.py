"""Boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021), which measures outlines independently of the area of a class.

For each class c, over the pixels of the whole set: the IoU of G_d and P_d, which are the pixels of the true and of the
predicted mask within the distance d of the boundary of that mask; d is 2 % of the image diagonal. As in the authors'
code, distance is counted in rows and columns (d erosions with a 3 x 3 square), and the border of the image is a
boundary of every mask.

Ignored pixels of the ground truth belong to neither mask, and both masks end there, as at the border of the image. A
perfect prediction therefore scores 100.

Dimensions: C classes without void; (H, W) the label map.
"""

import cv2
import numpy as np
import numpy.typing as npt

from clouds.data.classes import IGNORE_LABEL

Labels = npt.NDArray[np.uint8]

WIDTH = 0.02
"""Width d of the boundary region as a share of the image diagonal."""
_OUTSIDE = IGNORE_LABEL - 1  # label of pixels outside the image, which no class may have


def boundary_counts(prediction: Labels, truth: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """Count the boundary pixels of each class in one image. `boundary_iou` takes the sum over a set.

    Args:
        prediction: (H, W) uint8, 0..C-1.
        truth: (H, W) uint8, 0..C-1 or 255.
        num_classes: C, number of classes without void.

    Returns:
        (3, C) int64: pixels in both boundary regions, in the true one, and in the predicted one.
    """
    distance = max(1, round(WIDTH * float(np.hypot(*truth.shape))))
    known = truth != IGNORE_LABEL
    in_truth = boundary(truth, distance) & known
    in_prediction = boundary(np.where(known, prediction, np.uint8(IGNORE_LABEL)), distance) & known
    shared = in_truth & in_prediction & (prediction == truth)
    return np.stack(
        [
            np.bincount(labels[region], minlength=num_classes)
            for labels, region in ((truth, shared), (truth, in_truth), (prediction, in_prediction))
        ]
    )


def boundary_iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the boundary IoU of each class.

    Args:
        counts: (3, C) sum of `boundary_counts` over a set.

    Returns:
        (C,) in percent; nan for a class that the ground truth does not contain.
    """
    shared, true, predicted = counts.astype(np.float64)
    # A mask with at least one pixel has a boundary, because the border of the image is one.
    return np.divide(100 * shared, true + predicted - shared, out=np.full_like(shared, np.nan), where=true > 0)


def boundary(labels: Labels, distance: int) -> npt.NDArray[np.bool_]:
    """Find the pixels within a distance of another label or of the outside of the image.

    At these pixels the highest and the lowest label in a window differ, so two filters find the regions of all classes.
    An erosion for each of 19 classes takes 25 times as long.

    Args:
        labels: (H, W) uint8 without the value 254.
        distance: d, in rows and columns, at least 1.

    Returns:
        (H, W) bool.
    """
    window = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
    highest = cv2.dilate(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE)
    lowest = cv2.erode(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE)
    return np.not_equal(highest, lowest)
