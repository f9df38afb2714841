"""Label maps from masks: equal to the highest score of the reference, in less memory."""

import importlib.util
import logging
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.inference import cells, image_labels, label_map
from clouds.modeling.inference import labels as choice
from clouds.modeling.inference.labels import reference_label_map
from clouds.modeling.inference.sampling import bilinear_samples
from clouds.modeling.structures import Prediction
from tests.modeling.inference.answers import KINDS, answer
from tests.operations import Largest

IMPLEMENTATIONS = [reference_label_map, cells.label_map]
Size = tuple[int, int]


def published_scores(class_logits: Tensor, mask_logits: Tensor, canvas: Size, image: Size, output: Size) -> Tensor:
    """Return (K, height, width) as the published code computes them: all masks at once, then the resized scores."""
    masks = F.interpolate(mask_logits[None], size=canvas, mode="bilinear", align_corners=False)[0].sigmoid()
    scores = torch.einsum("qk,qhw->khw", class_logits.softmax(dim=-1)[:, :-1], masks)[:, : image[0], : image[1]]
    return F.interpolate(scores[None], size=output, mode="bilinear", align_corners=False)[0]


def check(labels: Tensor, scores: Tensor, threshold: float = 0.0, tolerance: float = 3e-5) -> None:
    """Check labels against scores: only where two scores, or a share and the threshold, nearly tie, may they differ."""
    assert labels.dtype == torch.uint8 and labels.shape == scores.shape[1:]
    best, total = scores.amax(dim=0), scores.sum(dim=0)
    own = scores.gather(0, labels.where(labels != IGNORE_LABEL, 0).long()[None])[0]
    right = own >= best * (1 - tolerance)
    if threshold:
        dropped = labels == IGNORE_LABEL
        low, high = (threshold * total * (1 + sign * tolerance) for sign in (-1, 1))
        right = torch.where(dropped, best < high, right & (best >= low))
    assert right.all(), f"{(~right).sum()} of {right.numel()} labels are wrong"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
    queries=st.integers(1, 12),
    classes=st.integers(1, 6),
    source=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    factors=st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 3, 4])),
    cut=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    output=st.one_of(st.none(), st.tuples(st.integers(1, 90), st.integers(1, 90))),
    threshold=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
)
def test_every_label_is_that_of_the_highest_score(
    implementation, kind, seed, queries, classes, source, factors, cut, output, threshold
):
    class_logits, mask_logits = answer(kind, seed, queries, classes, *source)
    canvas = (source[0] * factors[0], source[1] * factors[1])
    image = (max(1, int(canvas[0] * (1 - cut[0]))), max(1, int(canvas[1] * (1 - cut[1]))))
    labels = implementation(class_logits, mask_logits, canvas, image, output or image, threshold)
    scores = published_scores(class_logits.double(), mask_logits.double(), canvas, image, output or image)
    # The positions of resized pixels are computed in float32: at most 1e-5 pixels here.
    check(labels, scores, threshold, tolerance=3e-5 if output is None else 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_of_many_queries_not_one_label_differs(kind):
    class_logits, mask_logits = answer(kind, 0, 100, 19, 32, 48)
    labels = label_map(class_logits, mask_logits, (128, 192), (128, 192), (128, 192))
    scores = published_scores(class_logits, mask_logits, (128, 192), (128, 192), (128, 192))
    different = labels != scores.argmax(dim=0)
    if kind in ("random", "trained"):
        assert not different.any()
        assert len(labels.unique()) > 3
    check(labels, scores)


@pytest.mark.parametrize("image", [(1, 64), (64, 1), (61, 32), (33, 64)])
@pytest.mark.parametrize("output", [(1, 64), (1, 1), (130, 200), (20, 7), (64, 64)])
def test_sizes(image, output):
    class_logits, mask_logits = answer("trained", 1, 40, 7, 16, 16)
    scores = published_scores(class_logits, mask_logits, (64, 64), image, output)
    for implementation in IMPLEMENTATIONS:
        labels = implementation(class_logits, mask_logits, (64, 64), image, output)
        assert labels.is_contiguous()
        assert (labels != scores.argmax(dim=0)).float().mean() < 1e-3
        check(labels, scores, tolerance=1e-3)


def test_most_cells_of_a_trained_answer_are_decided_by_their_corners(monkeypatch):
    computed = []
    scores = cells._Grid.scores
    monkeypatch.setattr(cells._Grid, "scores", lambda grid, *rest: computed.append(len(rest[1])) or scores(grid, *rest))
    label_map(*answer("trained", 0, 100, 19, 64, 128), (256, 512), (256, 512), (256, 512))
    assert 0 < sum(computed) < 0.4 * 64 * 128


@pytest.mark.parametrize("output", [(512, 1024), (1500, 1200), (100, 130)])
@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_tensor_grows_with_classes_times_pixels(implementation, kind, output):
    class_logits, mask_logits = answer(kind, 0, 40, 19, 128, 256)
    with Largest() as largest:
        implementation(class_logits, mask_logits, (512, 1024), (512, 1024), output)
    pixels = max(output[0] * output[1], 512 * 1024)
    assert largest.made < 0.25 * 4 * 19 * pixels
    with Largest() as largest:
        published_scores(class_logits, mask_logits, (512, 1024), (512, 1024), output)
    assert largest.made >= 4 * 40 * 512 * 1024


def test_images_of_a_batch_and_half_precision():
    answers = [answer("trained", seed, 30, 5, 16, 24) for seed in range(2)]
    prediction = Prediction(*(torch.stack(each) for each in zip(*answers, strict=True)))
    sizes, outputs = [(64, 96), (40, 50)], [(64, 96), (80, 100)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = image_labels(prediction, (64, 96), sizes, outputs, threshold=0.5)
    for i, each in enumerate(maps):
        scores = published_scores(*answers[i], (64, 96), sizes[i], outputs[i])
        check(each, scores, 0.5, tolerance=1e-4)
        assert (each == IGNORE_LABEL).any() and (each != IGNORE_LABEL).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("output", [(60, 90), (70, 50)])
def test_logits_of_any_precision(dtype, output):
    logits = [each.to(dtype) for each in answer("trained", 0, 30, 5, 16, 24)]
    labels = label_map(*logits, (64, 96), (60, 90), output, 0.5)
    check(labels, published_scores(*(each.double() for each in logits), (64, 96), (60, 90), output), 0.5, 1e-3)


@pytest.mark.parametrize("output", [(16, 16), (20, 11)])
def test_as_many_classes_as_labels(output):
    class_logits = torch.randn(40, 256, generator=torch.Generator().manual_seed(0))
    class_logits[0, 254] = 30.0  # the last class, whose label marks mixed pixels while the result is computed
    mask_logits = answer("trained", 0, 40, 5, 4, 4)[1]
    labels = label_map(class_logits, mask_logits, (16, 16), (16, 16), output)
    check(labels, published_scores(class_logits, mask_logits, (16, 16), (16, 16), output), tolerance=1e-3)
    assert (labels == 254).any()
    with pytest.raises(ValueError, match=r"^class_logits has 256 classes; a label map can hold 255$"):
        label_map(torch.randn(40, 257), mask_logits, (16, 16), (16, 16), output)


def test_a_canvas_that_is_no_multiple():
    for implementation in (label_map, *IMPLEMENTATIONS):
        with pytest.raises(ValueError, match="canvas is 21 x 20; it must be a multiple of the mask logits' 5 x 5"):
            implementation(torch.randn(3, 4), torch.randn(3, 5, 5), (21, 20), (21, 20), (21, 20))


@pytest.mark.slow
def test_the_fused_kernel_labels_every_pixel_like_the_reference():
    """Runs in a process of its own, because Triton chooses its interpreter when it is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.modeling.inference.interpreted"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all equal\n")


@pytest.mark.parametrize("output", [(64, 96), (70, 50)])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_no_operation_on_a_gpu_waits_for_a_value(threshold, output):
    """A tensor on `meta` has no values, so any read of a value, or a copy to the host, fails."""
    logits = [each.to("meta") for each in answer("random", 0, 20, 5, 16, 24)]
    (labels,) = image_labels(Prediction(*(x[None] for x in logits)), (64, 96), [(60, 90)], [output], threshold)
    assert labels.shape == output and labels.device.type == "meta"
    pytest.importorskip("triton")
    kernel = importlib.import_module("clouds.modeling.inference.kernel")
    order, weights, rest = kernel.in_steps(logits[0].softmax(dim=-1)[:, :-1].T)
    assert (order.shape, weights.shape, rest.shape) == ((32,), (16, 32), (3, 16))


@pytest.mark.parametrize("installed", [False, True])
def test_a_gpu_needs_triton_for_the_kernel(installed, monkeypatch, caplog):
    pytest.importorskip("triton")
    caplog.set_level(logging.INFO)
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    chosen = choice._implementation.__wrapped__("cuda")
    assert (chosen.__module__ == "clouds.modeling.inference.kernel") is installed
    said = [record.message.partition(":")[0] for record in caplog.records]
    assert said == ([] if installed else ["Triton is not installed"])
    assert choice._implementation.__wrapped__("mps") is reference_label_map


@given(source=st.integers(1, 3000), size=st.integers(1, 3000))
def test_samples_are_those_of_interpolate(source, size):
    ramp = torch.arange(source, dtype=torch.float32)
    lower, upper, weight = bilinear_samples(source, size)
    ours = ramp[lower] * (1 - weight) + ramp[upper] * weight
    theirs = F.interpolate(ramp[None, None], size=size, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
