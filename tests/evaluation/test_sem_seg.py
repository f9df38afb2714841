import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from clouds.d2 import MetadataCatalog, comm, inference_on_dataset
from clouds.data.classes import CITYSCAPES_COLORS, CITYSCAPES_ID_TO_TRAIN_ID, lookup_table
from clouds.data.datasets.catalog import register
from clouds.data.encoding import read_train_ids
from clouds.errors import UserError
from clouds.evaluation.boundary import boundary_counts
from clouds.evaluation.confusion import score
from clouds.evaluation.files import ImageCounts, class_iou
from clouds.evaluation.label_maps import best_classes
from clouds.evaluation.sem_seg import SemSegEvaluator
from tests.evaluation.test_confusion import GOLDEN


def scores_of(labels: np.ndarray, classes: int = 19) -> torch.Tensor:
    """Return (C, H, W) scores with their maximum at ``labels``."""
    return one_hot(torch.from_numpy(labels).long(), classes).permute(2, 0, 1).float()


def sample(truth: np.ndarray) -> dict:
    return {"file_name": "street.png", "image_id": "street", "sem_seg": torch.from_numpy(truth)}


def golden_evaluator(name: str, images: range = range(3), **options: Any) -> SemSegEvaluator:
    evaluator = SemSegEvaluator(name, **options)
    with np.load(GOLDEN) as golden:
        for i in images:
            evaluator.process([sample(golden[f"gt{i}"])], [{"sem_seg": scores_of(golden[f"pred{i}"])}])
    return evaluator


def test_evaluator_reports_each_class_under_its_own_name(streets: str) -> None:
    evaluator = golden_evaluator(streets)
    results = evaluator.evaluate()["sem_seg"]
    with np.load(GOLDEN) as golden:
        for key in ("mIoU", "fwIoU", "mACC", "pACC"):
            assert results[key] == pytest.approx(float(golden[key]))
        reported = dict(zip(golden["reported_names"], golden["reported_values"], strict=True))
    for name, value in reported.items():
        if name in ("IoU.bus", "IoU.motorcycle", "IoU.bicycle", "mIoU"):
            continue
        assert results[name.replace(".", "-")] == pytest.approx(value), name
    # The published code gives "bus" the value of "vegetation", whose synonym is "bushes", and absent classes 0.
    assert reported["IoU.bus"] == pytest.approx(55.02, abs=0.01)
    assert results["IoU-bus"] == pytest.approx(78.98, abs=0.01)
    assert reported["IoU.motorcycle"] == reported["IoU.bicycle"] == 0
    assert math.isnan(results["IoU-motorcycle"]) and math.isnan(results["IoU-bicycle"])
    assert results["ACC-bus"] == pytest.approx(100)
    assert evaluator.images == 3


def test_reset_forgets_and_batches_do_not_matter(streets: str) -> None:
    one_by_one = golden_evaluator(streets).evaluate()
    evaluator = golden_evaluator(streets, range(2))
    evaluator.reset()
    assert evaluator.images == 0 and not evaluator.matrix.any()
    with np.load(GOLDEN) as golden:
        evaluator.process(
            [sample(golden[f"gt{i}"]) for i in range(3)],
            [{"sem_seg": scores_of(golden[f"pred{i}"])} for i in range(3)],
        )
    np.testing.assert_equal(evaluator.evaluate(), one_by_one)


def test_processes_are_summed_in_the_main_one(streets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = golden_evaluator(streets, boundary=True)
    main, other = (golden_evaluator(streets, part, boundary=True) for part in (range(1), range(1, 3)))
    shares = []
    monkeypatch.setattr(comm, "gather", shares.append)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert other.evaluate() is None
    monkeypatch.setattr(comm, "gather", lambda share: [share, *shares])
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    results = main.evaluate()
    monkeypatch.undo()
    np.testing.assert_equal(results, whole.evaluate())
    assert main.images == 3 and (main.matrix == whole.matrix).all()
    ours, expected = main.image_counts("published"), whole.image_counts("published")
    for field in dataclasses.fields(ImageCounts):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(expected, field.name), field.name)
    assert results["sem_seg"]["mBIoU"] > 0


def test_the_counts_of_each_image_are_kept(streets: str) -> None:
    evaluator = SemSegEvaluator(streets, boundary=True, absent="zero")
    with np.load(GOLDEN) as golden:
        images = [(golden[f"gt{i}"], golden[f"pred{i}"]) for i in range(3)]
    for name, (truth, prediction) in zip(("c", "a", "b"), images, strict=True):
        one = sample(truth) | {"image_id": name, "file_name": f"/data/{name}.png"}
        evaluator.process([one], [{"sem_seg": scores_of(prediction)}])
    evaluator.evaluate()
    kept = evaluator.image_counts("official")
    assert (kept.dataset, kept.protocol, kept.absent) == (streets, "official", "zero")
    assert kept.images == ("a", "b", "c") and kept.files[0] == "/data/a.png"
    assert kept.classes[0] == "road" and kept.counts.shape == kept.boundary_counts.shape == (3, 3, 19)
    np.testing.assert_array_equal(kept.matrix, evaluator.matrix)
    np.testing.assert_allclose(class_iou(kept.counts.sum(axis=0), "zero"), score(kept.matrix, "zero").iou)
    truth, prediction = images[1]
    known = truth < 255
    right, predicted, true = kept.counts[0]
    np.testing.assert_array_equal(right, np.bincount(truth[known & (truth == prediction)], minlength=19))
    np.testing.assert_array_equal(predicted, np.bincount(prediction[known], minlength=19))
    np.testing.assert_array_equal(true, np.bincount(truth[known], minlength=19))
    np.testing.assert_array_equal(kept.boundary_counts[0], boundary_counts(prediction, truth, 19))


def test_prediction_is_the_class_of_the_highest_score() -> None:
    scores = torch.randn(19, 13, 17, generator=torch.Generator().manual_seed(0))
    labels = best_classes(scores)
    assert labels.dtype == torch.uint8 and labels.shape == (13, 17)
    assert torch.equal(labels, scores.argmax(dim=0).byte())


def test_evaluator_runs_under_the_inference_loop(streets: str) -> None:
    truth = np.array([[0, 1, 255], [18, 18, 0]], dtype=np.uint8)

    class Perfect(torch.nn.Module):
        def forward(self, inputs: list) -> list:
            return [{"sem_seg": scores_of(truth * (truth < 255))} for _ in inputs]

    results = inference_on_dataset(Perfect(), [[sample(truth)]] * 4, SemSegEvaluator(streets))
    assert results["sem_seg"]["mIoU"] == 100
    assert results["sem_seg"]["IoU-bicycle"] == 100 and math.isnan(results["sem_seg"]["IoU-car"])


def test_outlines_are_scored_on_demand(streets: str) -> None:
    plain, with_outlines = golden_evaluator(streets).evaluate(), golden_evaluator(streets, boundary=True).evaluate()
    extra = {key: value for key, value in with_outlines["sem_seg"].items() if key not in plain["sem_seg"]}
    np.testing.assert_equal({key: with_outlines["sem_seg"][key] for key in plain["sem_seg"]}, plain["sem_seg"])
    assert len(extra) == 20
    assert math.isnan(extra["BIoU-motorcycle"]) and math.isnan(extra["BIoU-bicycle"])
    values = [extra[f"BIoU-{name}"] for name in golden_evaluator(streets).classes]
    assert extra["mBIoU"] == pytest.approx(np.nanmean(values))
    evaluator = golden_evaluator(streets, boundary=True)
    evaluator.evaluate()
    assert evaluator.boundaries.any()
    evaluator.reset()
    assert not evaluator.boundaries.any()


def test_predictions_are_written_whether_or_not_there_is_something_to_score(streets: str, tmp_path: Path) -> None:
    evaluator = SemSegEvaluator(streets, label_folder=tmp_path / streets)
    truth = np.array([[0, 255, 18]], dtype=np.uint8)
    prediction = np.array([[0, 13, 17]], dtype=np.uint8)
    without = {"file_name": "b/1.png", "image_id": "b/1", "height": 1, "width": 3}
    evaluator.process([sample(truth) | {"image_id": "a/1"}, without], [{"sem_seg": scores_of(prediction)}] * 2)
    assert evaluator.images == 1
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 50
    for name in ("a/1", "b/1"):
        written = read_train_ids(str(tmp_path / streets / f"{name}_labelTrainIds.png"), 19)
        assert (written == prediction).all()
        colors = np.asarray(Image.open(tmp_path / streets / f"{name}_color.png").convert("RGB"))
        assert colors[0].tolist() == [list(CITYSCAPES_COLORS[label]) for label in prediction[0]]
    with pytest.raises(UserError, match=r"returned scores \(19, 1, 3\) for b/1.png, but .* = \(19, 2, 3\)"):
        evaluator.process([without | {"height": 2}], [{"sem_seg": scores_of(prediction)}])


def test_what_cannot_be_scored_is_said(streets: str) -> None:
    evaluator, truth = SemSegEvaluator(streets), np.zeros((2, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"street\.png has no label map"):
        evaluator.process([{"file_name": "street.png"}], [{"sem_seg": scores_of(truth)}])
    with pytest.raises(UserError, match=r"scores \(16, 2, 3\) .*needs .* \(19, 2, 3\): use a model with 19 classes"):
        evaluator.process([sample(truth)], [{"sem_seg": scores_of(truth, 16)}])
    with pytest.raises(UserError, match=r"returned scores \(19, 3, 2\)"):
        evaluator.process([sample(truth)], [{"sem_seg": scores_of(truth.T.copy())}])


def test_classes_must_have_names_of_their_own(streets: str) -> None:
    register(streets, list, classes=["car,auto", "car,truck"], colors=[(0, 0, 0)] * 2)
    with pytest.raises(UserError, match="same first name"):
        SemSegEvaluator(streets)
    assert MetadataCatalog.get(streets).stuff_classes == ["car,auto", "car,truck"]


def test_agrees_with_the_official_cityscapes_script(streets: str, tmp_path: Path) -> None:
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
    from cityscapesscripts.helpers.labels import labels

    rng = np.random.default_rng(0)
    to_train_id, to_id = lookup_table(CITYSCAPES_ID_TO_TRAIN_ID), np.zeros(19, dtype=np.uint8)
    for label_id, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items():
        to_id[train_id] = label_id
    every_id = np.array([label.id for label in labels if label.id >= 0], dtype=np.uint8)  # including ignored ids
    evaluator, predictions, truths = SemSegEvaluator(streets), [], []
    for number in range(3):
        truth_ids = rng.choice(every_id, (12, 24)).repeat(4, axis=0).repeat(4, axis=1)
        truth = to_train_id[truth_ids]
        right = (rng.random(truth.shape) < 0.6) & (truth < 255)
        prediction = np.where(right, truth, rng.integers(0, 19, truth.shape)).astype(np.uint8)
        stem = tmp_path / f"city_{number:06d}_000019"
        Image.fromarray(to_id[prediction]).save(f"{stem}_pred.png")
        Image.fromarray(truth_ids).save(f"{stem}_gtFine_labelIds.png")
        Image.fromarray(truth).save(f"{stem}_gtFine_labelTrainIds.png")
        predictions.append(f"{stem}_pred.png")
        truths.append(f"{stem}_gtFine_labelIds.png")
        read_back = np.array(read_train_ids(f"{stem}_gtFine_labelTrainIds.png", 19))
        evaluator.process([sample(read_back)], [{"sem_seg": scores_of(prediction)}])

    args = official.args
    args.evalInstLevelScore, args.quiet, args.JSONOutput = False, True, False
    theirs = official.evaluateImgLists(predictions, truths, args)
    results = evaluator.evaluate()["sem_seg"]
    assert results["mIoU"] == pytest.approx(100 * theirs["averageScoreClasses"], abs=1e-9)
    named = {name: 100 * value for name, value in theirs["classScores"].items() if f"IoU-{name}" in results}
    assert len(named) == 19
    assert named == pytest.approx({name: results[f"IoU-{name}"] for name in named}, abs=1e-9)


def test_a_set_without_a_labelled_pixel_cannot_be_scored(streets: str) -> None:
    evaluator = SemSegEvaluator(streets)
    ignored = np.full((4, 4), 255, np.uint8)
    evaluator.process([sample(ignored)] * 2, [{"sem_seg": scores_of(ignored % 2)}] * 2)
    with pytest.raises(UserError, match=r"cannot be scored: no pixel of its label maps has a class, all are ignored"):
        evaluator.evaluate()
    one = ignored.copy()
    one[0, 0] = 3
    evaluator.process([sample(one)], [{"sem_seg": scores_of(ignored % 2)}])
    assert evaluator.evaluate()["sem_seg"]["pACC"] == 0


def test_a_class_that_255_hides_is_said(caplog: pytest.LogCaptureFixture) -> None:
    register("masks", list, classes=["back", "front,object"], colors=[(0, 0, 0), (9, 9, 9)])
    evaluator = SemSegEvaluator("masks")
    for truth, said in (([[0, 255]], ["masks: no pixel of its label maps has the class front"]), ([[0, 1]], [])):
        caplog.clear()
        labels = np.array(truth, np.uint8)
        evaluator.process([sample(labels)], [{"sem_seg": scores_of(labels % 2, 2)}])
        evaluator.evaluate()
        assert [message.split(",")[0] for message in caplog.messages] == said
