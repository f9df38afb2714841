"""Boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021): how well outlines are met, where large areas count no more.

For each class c, over the pixels of the whole set, IoU of G_d and P_d: the pixels of the true and of the predicted mask
that lie within d pixels of where that mask ends, d = 2 % of the picture's diagonal. As in the authors' code, distance
is counted in rows and columns (d erosions with 3 x 3 pixels), and a mask also ends where the picture does.

Where the ground truth says ignore, neither mask has a pixel, and both end there: what is not known is treated like what
is not in the picture, and a perfect prediction scores 100.

Legend: C classes; (H, W) the label map.
"""

import cv2
import numpy as np
import numpy.typing as npt

from clouds.data.classes import IGNORE_LABEL

Labels = npt.NDArray[np.uint8]

WIDTH = 0.02
"""Of the boundary region, as a share of the picture's diagonal."""
_OUTSIDE = IGNORE_LABEL - 1  # a label of its own: with one to ignore, there is no class of this number


def boundary_counts(prediction: Labels, truth: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """Count boundary pixels by class; the sums over a set's pictures go to `boundary_iou`.

    Args:
        prediction: (H, W) uint8, 0..C-1.
        truth: (H, W) uint8, 0..C-1 or 255.
        num_classes: C.

    Returns:
        (3, C): pixels in both boundary regions, in the true one, in the predicted one.
    """
    reach = max(1, round(WIDTH * float(np.hypot(*truth.shape))))
    known = truth != IGNORE_LABEL
    in_truth = boundary(truth, reach) & known
    in_prediction = boundary(np.where(known, prediction, np.uint8(IGNORE_LABEL)), reach) & known
    shared = in_truth & in_prediction & (prediction == truth)
    return np.stack(
        [
            np.bincount(labels[region], minlength=num_classes)
            for labels, region in ((truth, shared), (truth, in_truth), (prediction, in_prediction))
        ]
    )


def boundary_iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(3, C) sums of `boundary_counts` -> (C,) in percent; nan for a class that the ground truth does not have."""
    shared, true, predicted = counts.astype(np.float64)
    # A mask that has a pixel has a boundary, since a picture ends somewhere.
    return np.divide(100 * shared, true + predicted - shared, out=np.full_like(shared, np.nan), where=true > 0)


def boundary(labels: Labels, reach: int) -> npt.NDArray[np.bool_]:
    """Pixels with another label, or the outside of the picture, within `reach` rows and columns.

    That is where a window's highest and lowest label differ: two filters over the map find the regions of all classes;
    an erosion for each of 19 took 25 times as long.

    Args:
        labels: (H, W) uint8, anything but 254.
        reach: d, at least 1.

    Returns:
        (H, W) bool.
    """
    window = np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    highest = cv2.dilate(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE)
    lowest = cv2.erode(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE)
    return np.not_equal(highest, lowest)
