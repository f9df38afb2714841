from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.evaluation.confusion import confusion_matrix, score

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "evaluator.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def golden_matrix(golden: dict[str, np.ndarray]) -> np.ndarray:
    pairs = [(torch.from_numpy(golden[f"pred{i}"]), torch.from_numpy(golden[f"gt{i}"])) for i in range(3)]
    return sum(confusion_matrix(prediction, truth, 19).numpy() for prediction, truth in pairs)


def test_matrix_is_the_published_one(golden: dict[str, np.ndarray]) -> None:
    matrix = golden_matrix(golden)
    assert matrix.dtype == np.int64
    assert (matrix == golden["conf_matrix"]).all()


def test_scores_are_the_published_ones(golden: dict[str, np.ndarray]) -> None:
    scores = score(golden_matrix(golden))
    for ours, theirs in (
        ("miou", "mIoU"),
        ("fwiou", "fwIoU"),
        ("macc", "mACC"),
        ("pacc", "pACC"),
        ("iou", "IoU"),
        ("acc", "ACC"),
    ):
        np.testing.assert_allclose(getattr(scores, ours), golden[theirs], rtol=1e-12, err_msg=theirs)
    assert np.isnan(scores.iou[[17, 18]]).all()  # absent from the ground truth, although 17 is predicted


def test_the_rules_for_an_absent_class() -> None:
    truth = torch.tensor([0, 0, 0, 1, 255], dtype=torch.uint8)[None]
    prediction = torch.tensor([0, 0, 2, 1, 3])[None]  # 2 is absent, 3 is predicted on an ignored pixel, 4 is nowhere
    matrix = confusion_matrix(prediction, truth, 5).numpy()
    left_out, zero = score(matrix), score(matrix, "zero")
    np.testing.assert_equal(left_out.iou, [200 / 3, 100, np.nan, np.nan, np.nan])
    np.testing.assert_equal(zero.iou, [200 / 3, 100, 0, np.nan, np.nan])
    assert (left_out.miou, zero.miou) == (pytest.approx(250 / 3), pytest.approx(500 / 9))
    np.testing.assert_equal(zero.acc, left_out.acc)
    assert (zero.fwiou, zero.macc, zero.pacc) == (left_out.fwiou, left_out.macc, left_out.pacc)


def naive(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for predicted, true in zip(prediction.ravel(), truth.ravel(), strict=True):
        matrix[predicted, classes if true == 255 else true] += 1
    return matrix


@given(data=st.data(), classes=st.integers(1, 254))
def test_matrix_counts_every_pixel_once(data: st.DataObject, classes: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = data.draw(st.tuples(st.integers(0, 6), st.integers(0, 6)))
    prediction = rng.integers(0, classes, shape)
    truth = np.where(rng.random(shape) < 0.2, 255, rng.integers(0, classes, shape)).astype(np.uint8)
    matrix = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(truth), classes)
    assert (matrix.numpy() == naive(prediction, truth, classes)).all()


@given(seed=st.integers(0, 1000), classes=st.integers(1, 8))
def test_scores_follow_their_definitions(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(50) < 0.2, 255, rng.integers(0, classes, 50))
    prediction = np.where((rng.random(50) < 0.5) & (truth < 255), truth, rng.integers(0, classes, 50))
    scores = score(naive(prediction, truth, classes))
    kept = truth != 255
    for c in range(classes):
        predicted, true = (prediction == c) & kept, truth == c
        if not true.any():
            assert np.isnan(scores.iou[c]) and np.isnan(scores.acc[c])
        else:
            assert scores.iou[c] == pytest.approx(100 * (predicted & true).sum() / (predicted | true).sum())
            assert scores.acc[c] == pytest.approx(100 * (predicted & true).sum() / true.sum())
    shares = np.array([(truth == c).sum() for c in range(classes)]) / kept.sum()
    assert scores.pacc == pytest.approx(100 * (prediction == truth)[kept].mean())
    assert scores.miou == pytest.approx(np.nanmean(scores.iou))
    assert scores.macc == pytest.approx(np.nanmean(scores.acc))
    assert scores.fwiou == pytest.approx(np.nansum(scores.iou * shares))


def test_perfect_prediction_scores_100_whatever_is_absent() -> None:
    truth = torch.tensor([[0, 1, 255, 4]], dtype=torch.uint8)
    scores = score(confusion_matrix(torch.tensor([[0, 1, 2, 4]]), truth, 6).numpy())
    assert (scores.miou, scores.fwiou, scores.macc, scores.pacc) == (100, 100, 100, 100)
    assert np.isnan(scores.iou).tolist() == [False, False, True, True, False, True]


@pytest.mark.filterwarnings("error")
def test_nothing_but_ignored_pixels_has_no_score() -> None:
    scores = score(confusion_matrix(torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255), 3).numpy())
    assert np.isnan([scores.miou, scores.fwiou, scores.macc, scores.pacc, *scores.iou, *scores.acc]).all()


@pytest.mark.parametrize("classes", [19, 200])
def test_ids_out_of_range_are_not_counted_elsewhere(classes: int) -> None:
    good, bad = torch.zeros(2, 2, dtype=torch.long), torch.tensor([[0, classes], [0, 0]])
    with pytest.raises(ValueError, match="prediction has ids outside"):
        confusion_matrix(bad, good, classes)
    with pytest.raises(ValueError, match="truth has ids outside"):
        confusion_matrix(good, bad + 1, classes)
    with pytest.raises(ValueError, match="differ in size"):
        confusion_matrix(good, good[:1], classes)
