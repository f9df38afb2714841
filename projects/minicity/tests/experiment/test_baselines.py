"""Baselines, on data whose best answer is known."""

import numpy as np
from minicity.experiment.baselines import ColorPositionClassifier, ConstantPredictor, mean_iou


def street(rng, size=(32, 64)):
    """Upper half: class 10 where blue, else 2. Lower half: class 0 whatever the color. A corner is unlabelled."""
    blue = rng.random(size) < 0.5
    image = np.where(blue[..., None], (20, 20, 220), (120, 120, 120)).astype(np.uint8)
    label = np.where(blue, 10, 2).astype(np.uint8)
    label[size[0] // 2 :] = 0
    label[:4, :4] = 255  # unlabelled
    return image, label


def test_classifier_uses_color_and_position():
    rng = np.random.default_rng(0)
    pairs = [street(rng) for _ in range(20)]
    model = ColorPositionClassifier().fit([image for image, _ in pairs], [label for _, label in pairs])
    image, label = street(rng)
    predicted = model.predict(image)
    known = label != 255
    assert predicted.dtype == np.uint8
    assert (predicted == label)[known].mean() > 0.97
    assert mean_iou([(predicted, label)]) > 94
    assert set(np.unique(predicted)) == {0, 2, 10}, "classes that were never seen are never predicted"
    larger = model.predict(np.repeat(np.repeat(image, 2, axis=0), 2, axis=1))
    assert (larger[::2, ::2] == predicted).mean() > 0.9, "position is relative to the image's size"


def test_balance_favours_rare_classes_where_that_pays():
    # A color that is class 11 in a fifth of its pixels: the more frequent class 2 would take all of them.
    rng = np.random.default_rng(2)
    grey = np.full((32, 64, 3), 120, dtype=np.uint8)
    labels = [np.where(rng.random((32, 64)) < 0.2, 11, 2).astype(np.uint8) for _ in range(10)]
    model = ColorPositionClassifier().fit([grey] * 10, labels)
    model.balance = 0.0
    assert set(np.unique(model.predict(grey))) == {2}
    model.balance = 2.0
    assert set(np.unique(model.predict(grey))) == {11}


def test_constant_is_the_most_frequent_class():
    labels = [np.array([[3, 3, 255, 255, 255, 4]], dtype=np.uint8)]
    model = ConstantPredictor().fit([], labels)
    assert model.predict(np.zeros((2, 5, 3), np.uint8)).tolist() == [[3] * 5] * 2


def test_mean_iou_counts_over_all_images():
    first = np.array([[0, 1, 1, 7]], dtype=np.uint8), np.array([[0, 0, 1, 255]], dtype=np.uint8)
    second = np.array([[0, 0]], dtype=np.uint8), np.array([[0, 0]], dtype=np.uint8)
    assert np.isclose(mean_iou([first]), 100 * (1 / 2 + 1 / 2) / 2)
    assert np.isclose(mean_iou([first, second]), 100 * (3 / 4 + 1 / 2) / 2)
