"""`clouds.load` and `Segmenter.predict`."""

from pathlib import Path

import numpy as np

import clouds
from tests.engine.conftest import CLASSES


def test_load_and_predict(closed: Path, images: list[Path]) -> None:
    model = clouds.load(closed, device="cpu")
    assert model.classes == CLASSES
    result = model.predict(images[0])
    assert result.labels.shape == (67, 101)
    assert result.labels.dtype == np.uint8
    assert len(np.unique(result.labels)) > 1
