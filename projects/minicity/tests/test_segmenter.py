"""The segmenter that comes with the repository: what it predicts, and its size."""

import numpy as np
import pytest
from minicity.paths import PROJECT
from minicity.segmenter import EXAMPLES, example, save_segmenter

import clouds

FOLDER = PROJECT / "weights/segmenter"


@pytest.fixture(scope="module")
def segmenter() -> clouds.Segmenter:
    return clouds.load(FOLDER, device="cpu")


@pytest.mark.parametrize("domain", EXAMPLES)
def test_it_labels_the_examples(segmenter: clouds.Segmenter, domain: str) -> None:
    truth = example(domain).label
    labels = segmenter.predict(PROJECT / f"examples/{domain}.jpg").labels
    assert labels.shape == truth.shape
    assert (labels == truth)[truth != 255].mean() > 0.6


def test_other_classes(segmenter: clouds.Segmenter) -> None:
    result = segmenter.predict(PROJECT / "examples/city.jpg", classes=["sky", "road,street,ground", "building,house"])
    truth = example("city").label
    assert (result.labels[truth == 10] == 0).mean() > 0.6  # sky


def test_the_tower_is_shared_and_the_folder_small(segmenter: clouds.Segmenter) -> None:
    assert (FOLDER / "../clip").resolve() == (PROJECT / "weights/clip").resolve()
    assert segmenter.cfg.MODEL.CLOUDS.CLIP_MODEL_NAME == str(FOLDER / "../clip")
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4e6
    assert sum(path.stat().st_size for path in (PROJECT / "examples").iterdir()) < 4e5


def test_it_is_saved_again(tmp_path) -> None:
    save_segmenter(FOLDER, tmp_path / "segmenter", tmp_path / "examples")
    again = clouds.load(tmp_path / "segmenter", device="cpu")
    [image] = (tmp_path / "examples").glob("night.jpg")
    assert np.array_equal(again.predict(image).labels, clouds.load(FOLDER, device="cpu").predict(image).labels)
