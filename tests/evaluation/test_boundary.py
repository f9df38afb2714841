import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from clouds.evaluation.boundary import WIDTH, boundary, boundary_counts, boundary_iou


def outline(mask: np.ndarray, reach: int) -> np.ndarray:
    """Return the boundary region by its definition: the mask minus the mask after `reach` erosions."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=reach, border_value=0)


def definition(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """Return the (C,) boundary IoU of pairs of prediction and truth, computed by class and image."""
    both, either = np.zeros(classes), np.zeros(classes)
    for prediction, truth in pairs:
        reach = max(1, round(WIDTH * float(np.hypot(*truth.shape))))
        for c in range(classes):
            theirs = outline(truth == c, reach)
            ours = outline((prediction == c) & (truth != 255), reach)
            both[c] += (theirs & ours).sum()
            either[c] += (theirs | ours).sum()
    absent = [all((truth != c).all() for _, truth in pairs) for c in range(classes)]
    return np.where(absent, np.nan, 100 * both / np.maximum(either, 1))


def ours(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    return boundary_iou(np.sum([boundary_counts(*pair, classes) for pair in pairs], axis=0))


def blocks(
    rng: np.random.Generator, size: tuple[int, int], classes: int, side: int = 9, specks: float = 0.02
) -> np.ndarray:
    """Return a label map with blocks of classes and single pixels of other classes in them."""
    labels = rng.integers(0, classes, (size[0] // side + 1, size[1] // side + 1), dtype=np.uint8)
    labels = labels.repeat(side, axis=0).repeat(side, axis=1)[: size[0], : size[1]]
    return np.where(rng.random(size) < specks, rng.integers(0, classes, size), labels).astype(np.uint8)


@given(seed=st.integers(0, 10_000), classes=st.integers(1, 5), pictures=st.integers(1, 3))
def test_it_is_the_definition(seed: int, classes: int, pictures: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(pictures):
        size = tuple(rng.integers(1, 130, 2))  # widths from 1 to 4 pixels
        truth, prediction = blocks(rng, size, classes), blocks(rng, size, classes)
        prediction = np.where(rng.random(size) < 0.1, prediction, truth)
        truth[blocks(rng, size, 4) == 0] = 255
        pairs.append((prediction, truth))
    np.testing.assert_allclose(ours(pairs, classes), definition(pairs, classes))


@given(seed=st.integers(0, 1000))
def test_a_perfect_prediction_scores_100_whatever_stands_on_ignored_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blocks(rng, (80, 120), 6)
    truth[blocks(rng, (80, 120), 3) == 0] = 255
    prediction = np.where(truth == 255, rng.integers(0, 6, truth.shape), truth).astype(np.uint8)
    scores = boundary_iou(boundary_counts(prediction, truth, 6))
    assert (scores[np.unique(truth[truth < 255])] == 100).all()


def test_a_shift_costs_the_outline_and_not_the_area() -> None:
    # A square of 100 pixels, predicted 3 pixels too far right, in an image whose boundary region is 6 wide.
    truth, shifted = np.zeros((200, 220), np.uint8), np.zeros((200, 220), np.uint8)
    truth[50:150, 50:150] = shifted[50:150, 53:153] = 1
    assert round(WIDTH * float(np.hypot(200, 220))) == 6
    ring = 100**2 - 88**2
    # The two rings share bands of 6 x 97 pixels above and below, and of 88 x 3 pixels left and right.
    shared = 2 * 6 * 97 + 2 * 3 * 88
    score = boundary_iou(boundary_counts(shifted, truth, 2))[1]
    assert score == pytest.approx(100 * shared / (2 * ring - shared))
    assert score < 0.65 * 100 * 97 / 103, "far below the square's plain IoU"


def test_the_width_grows_with_the_picture() -> None:
    counts = {}
    for scale in (1, 2, 4):
        truth = np.zeros((150 * scale, 200 * scale), np.uint8)  # boundary regions of 5, 10 and 20 pixels
        truth[:, : 100 * scale] = 1
        counts[scale] = boundary_counts(truth, truth, 2)
    assert (counts[1] > 0).all()
    for scale in (2, 4):
        assert (counts[scale] == scale**2 * counts[1]).all()


def test_absent_is_absent() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 3
    prediction = truth.copy()
    prediction[:5] = 1  # predicted, but not in the ground truth
    scores = boundary_iou(boundary_counts(prediction, truth, 5))
    assert np.isnan(scores).tolist() == [False, True, True, False, True]
    everything_ignored = boundary_counts(prediction, np.full_like(truth, 255), 5)
    assert not everything_ignored.any()
    assert np.isnan(boundary_iou(everything_ignored)).all()


def test_the_region_of_a_map_is_that_of_each_of_its_classes() -> None:
    labels = blocks(np.random.default_rng(0), (90, 140), 4, side=30, specks=1e-3)
    for reach in (1, 5, 12):
        region = boundary(labels, reach)
        for c in range(4):
            assert (region[labels == c] == outline(labels == c, reach)[labels == c]).all()
        assert not region.all()
