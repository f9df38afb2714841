"""A device without enough memory: smaller strips, equal results, remembered for later images."""

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from clouds.modeling.inference import image_scores, semantic_scores, strips
from clouds.modeling.inference import labels as label_maps
from clouds.modeling.inference import scores as score_maps
from clouds.modeling.inference.labels import reference_label_map
from clouds.modeling.structures import Prediction

CANVAS, IMAGE = (64, 48), (60, 44)
QUERIES, CLASSES = 5, 4


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips.in_strips, "size", strips.STRIP_ROWS)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[int]]]:
    """Let strips of more rows than a limit exceed the memory; returns the rows of all strips that were tried."""
    real = score_maps.score_rows

    def set_limit(most: int) -> list[int]:
        tried: list[int] = []

        def score_rows(weights: Tensor, masks: Tensor, canvas: tuple[int, int], top: int, bottom: int) -> Tensor:
            tried.append(bottom - top)
            if bottom - top > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
            return real(weights, masks, canvas, top, bottom)

        monkeypatch.setattr(score_maps, "score_rows", score_rows)
        monkeypatch.setattr(label_maps, "score_rows", score_rows)
        return tried

    yield set_limit


def logits() -> tuple[Tensor, Tensor]:
    return torch.randn(QUERIES, CLASSES + 1), 4 * torch.randn(QUERIES, 16, 12)


@pytest.mark.parametrize("output", [IMAGE, (31, 90), (120, 20)])
@pytest.mark.parametrize("most", [9, 4, 2])
def test_label_maps_need_less_memory_after_the_first_failure(output, most, limit, caplog):
    classes, masks = logits()
    expected = reference_label_map(classes, masks, CANVAS, IMAGE, output)
    tried = limit(most)
    with caplog.at_level(logging.WARNING, strips.__name__):
        assert torch.equal(reference_label_map(classes, masks, CANVAS, IMAGE, output), expected)
        failures = sum(rows > most for rows in tried)
        assert failures == len(caplog.records) > 0
        assert caplog.messages[0] == "cpu is out of memory: images are evaluated in strips of 8 rows from here on"
        assert torch.equal(reference_label_map(classes, masks, CANVAS, IMAGE, output), expected)
    assert sum(rows > most for rows in tried) == failures, "the second image does not fail again"


def test_scores_need_less_memory_after_the_first_failure(limit):
    classes, masks = logits()
    expected = semantic_scores(classes, masks, CANVAS)
    tried = limit(4)
    for _ in range(2):
        [found] = image_scores(Prediction(classes[None], masks[None]), CANVAS, [CANVAS], [CANVAS])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert tried[:3] == [16, 8, 4] and set(tried[3:]) == {4}


def test_a_row_that_does_not_fit_is_an_error(limit):
    limit(0)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        reference_label_map(*logits(), CANVAS, IMAGE, IMAGE)


def test_nothing_is_kept_of_the_failed_attempt():
    """The second attempt has the memory of the first, which its exception still holds while it is handled."""
    alive: list[bool] = []

    class Tracked:
        count = 0

        def __init__(self) -> None:
            Tracked.count += 1

        def __del__(self) -> None:
            Tracked.count -= 1

    def compute(rows: int) -> Tensor:
        alive.append(Tracked.count > 0)
        held = Tracked()
        if rows > 4:
            raise torch.OutOfMemoryError(str(held))
        return torch.zeros(1)

    strips.in_strips(compute, torch.device("cpu"))
    assert alive == [False, False, False]
