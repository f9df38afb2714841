"""Label maps instead of scores: equal results, less work, and no wait for the device."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import clouds.clouds  # noqa: F401  (registers the architecture)
from clouds.d2 import build_model, inference_on_dataset
from clouds.engine.inference import Predictions
from clouds.errors import UserError
from clouds.evaluation.confusion import _accelerated_histogram, confusion_matrix
from clouds.evaluation.label_maps import predict_labels
from clouds.evaluation.sem_seg import SemSegEvaluator
from tests.evaluation.test_sem_seg import sample, scores_of
from tests.parity import golden


class Scores(nn.Module):
    """Returns random scores of the size of the ground truth."""

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        scores = [torch.rand(19, *x["sem_seg"].shape, generator=torch.Generator().manual_seed(x["n"])) for x in inputs]
        return [{"sem_seg": each} for each in scores]


class Both(Scores):
    """Also predicts label maps."""

    def predict_labels(self, inputs: list[dict[str, Any]]) -> list[torch.Tensor]:
        return [x["sem_seg"].argmax(dim=0).byte() for x in self(inputs)]


@pytest.fixture
def batches() -> list[list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    truths = [rng.choice([0, 1, 2, 5, 18, 255], (7, 9 + number)).astype(np.uint8) for number in range(4)]
    image = torch.zeros(3, 8, 8)
    return [[sample(truth) | {"n": number, "image": image}] for number, truth in enumerate(truths)]


@pytest.mark.parametrize("boundary", [False, True])
def test_label_maps_give_the_results_of_scores(streets: str, batches: list, boundary: bool) -> None:
    by_scores = inference_on_dataset(Scores(), batches, SemSegEvaluator(streets, boundary=boundary))
    by_labels = inference_on_dataset(
        Predictions(Both(), labels=True), batches, SemSegEvaluator(streets, boundary=boundary)
    )
    assert 0 < by_scores["sem_seg"]["mIoU"] < 50
    np.testing.assert_equal(by_labels, by_scores)


def test_only_a_model_that_can_is_asked_for_label_maps(batches: list) -> None:
    scores, both = Scores().eval(), Both().eval()
    for model, labels, entry in ((scores, True, "sem_seg"), (both, True, "label_map"), (both, False, "sem_seg")):
        assert {*Predictions(model, labels=labels)(batches[0])[0]} == {entry}
    for ours, theirs in zip(predict_labels(scores, batches[0]), predict_labels(both, batches[0]), strict=True):
        assert ours.dtype == torch.uint8
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored(streets: str, batches: list, training: bool) -> None:
    model = Both().train(training)
    inference_on_dataset(Predictions(model, labels=True), batches, SemSegEvaluator(streets))
    assert model.training is training


def test_label_maps_that_do_not_fit(streets: str) -> None:
    truth = np.zeros((2, 3), dtype=np.uint8)
    evaluator = SemSegEvaluator(streets)
    with pytest.raises(UserError, match=r"returned a label map \(3, 2\) for street.png.*\(height, width\) = \(2, 3\)"):
        evaluator.process([sample(truth)], [{"label_map": torch.zeros(3, 2, dtype=torch.uint8)}])
    with pytest.raises(UserError, match=r"^street.png: prediction has ids outside 0..18; use a model with 19 classes"):
        evaluator.process([sample(truth)], [{"label_map": torch.full((2, 3), 19, dtype=torch.uint8)}])
    evaluator.matrix[-1, -1] = 1  # as an accelerator counts ids out of range
    with pytest.raises(UserError, match=r"predicted other classes than the 19 of .*: use a model with 19 classes"):
        evaluator.evaluate()


def test_no_operation_waits_for_the_device(streets: str) -> None:
    """A tensor on `meta` has no values, so any read of a value, or a copy to the host, fails."""
    evaluator, truth = SemSegEvaluator(streets), np.zeros((8, 6), dtype=np.uint8)
    for _ in range(3):
        evaluator.process([sample(truth)], [{"label_map": torch.zeros(8, 6, dtype=torch.uint8, device="meta")}])
        evaluator.process([sample(truth)], [{"sem_seg": scores_of(truth).to("meta")}])
    assert evaluator.matrix.device.type == "meta"
    assert evaluator.images == 6
    with pytest.raises(NotImplementedError):
        evaluator.evaluate()


class Uploads(TorchDispatchMode):
    """Counts the copies from the host to `meta`, the device of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = [{x.device.type for x in tree_leaves(each) if isinstance(x, torch.Tensor)} for each in (args, result)]
        if "cpu" in devices[0] and "meta" in devices[1]:
            self.shapes.append(tuple(args[0].shape))
        return result


@pytest.mark.parametrize("case", ["convnext_closed", "rn_closed"])
def test_an_evaluated_image_is_uploaded_with_its_truth_and_nothing_is_fetched(streets: str, case: str) -> None:
    model = Predictions(build_model(golden.golden_config(case, "MODEL.DEVICE", "meta")).eval(), labels=True)
    evaluator, truth = SemSegEvaluator(streets), np.zeros((70, 90), dtype=np.uint8)
    inputs = [sample(truth) | {"image": golden.batch()[0]["image"], "height": 70, "width": 90}]
    with torch.no_grad():
        evaluator.process(inputs, model(inputs))  # the first image also uploads what is cached
        with Uploads() as uploads:
            evaluator.process(inputs, model(inputs))
    assert sorted(shape[-2:] for shape in uploads.shapes) == [(70, 90), (96, 128)]


@given(seed=st.integers(0, 1000), size=st.integers(0, 3000))
def test_the_histogram_of_an_accelerator_counts_every_cell(seed: int, size: int) -> None:
    cells = torch.randint(400, (size,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    assert torch.equal(_accelerated_histogram(cells, 400), torch.bincount(cells, minlength=400))


@pytest.mark.parametrize("stray", [-1, 19, 254, 255, 256, 300])
def test_no_id_out_of_range_is_counted_as_a_class(stray: int) -> None:
    good, bad = torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[0, stray], [0, 0]])
    with pytest.raises(ValueError, match=r"prediction has ids outside 0\.\.18"):
        confusion_matrix(bad, good, 19)
    if stray == 255:
        assert confusion_matrix(good, bad, 19)[0, 19] == 1
    else:
        with pytest.raises(ValueError, match=r"truth has ids outside 0\.\.18"):
            confusion_matrix(good, bad, 19)
