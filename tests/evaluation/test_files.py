import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds.errors import UserError, WriteError
from clouds.evaluation import files
from clouds.evaluation.confusion import score
from clouds.evaluation.files import (
    EvaluationFiles,
    ImageCounts,
    class_iou,
    final_evaluation,
    mean_iou,
    read_evaluation,
    write_evaluation,
)

CLASSES = ("road", "sky", "bus")


def counts_of(seed: int = 0, images: int = 4, **changes: Any) -> ImageCounts:
    """Return the counts of random images; the last class is in none of them."""
    rng = np.random.default_rng(seed)
    matrices = rng.integers(0, 9, (images, 4, 4))
    matrices[:, -1] = 0
    matrices[:, :, 2] = 0
    kept = matrices[:, :-1, :-1]
    counts = np.stack([np.diagonal(kept, axis1=1, axis2=2), kept.sum(axis=2), kept.sum(axis=1)], axis=1)
    ids = tuple(f"town/{number}" for number in range(images))
    measured = ImageCounts(
        "streets", "published", CLASSES, ids, tuple(f"/data/{each}.png" for each in ids), counts, matrices.sum(axis=0)
    )
    return dataclasses.replace(measured, **changes)


def write(folder: Path, *measured: ImageCounts, **about: Any) -> EvaluationFiles:
    conditions = {"protocol": "published", "protocols": ["published", "official"], "seed": 3, **about}
    write_evaluation(folder, conditions, {"streets": {"sem_seg": {"mIoU": 50.0, "IoU-bus": math.nan}}}, measured)
    return read_evaluation(folder)


@pytest.mark.parametrize("absent", ["left_out", "zero"])
def test_scores_of_images_and_of_a_matrix_agree(absent: Any) -> None:
    measured = counts_of()
    whole = score(measured.matrix, absent)
    np.testing.assert_allclose(class_iou(measured.counts.sum(axis=0), absent), whole.iou)
    assert mean_iou(measured.counts.sum(axis=0), absent) == pytest.approx(whole.miou)
    assert math.isnan(whole.iou[2]) == (absent == "left_out")
    each = mean_iou(measured.counts, absent)
    assert each.shape == (4,)
    np.testing.assert_allclose(each, np.nanmean(class_iou(measured.counts, absent), axis=-1))


def test_leading_dimensions_are_kept_and_nothing_to_score_is_nan() -> None:
    counts = counts_of().counts
    draws = np.stack([counts, counts[::-1]])
    assert class_iou(draws).shape == (2, 4, 3) and mean_iou(draws).shape == (2, 4)
    np.testing.assert_array_equal(mean_iou(draws)[1], mean_iou(counts)[::-1])
    assert np.isnan(mean_iou(np.zeros((3, 2), np.int64)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    main, further = counts_of(), counts_of(1, protocol="official", absent="zero", boundary_counts=counts_of(2).counts)
    found = write(tmp_path, main, further)
    assert found.about["seed"] == 3
    assert found.about["scores"] == {"streets": {"sem_seg": {"mIoU": 50.0, "IoU-bus": None}}}
    assert found.sets == {
        ("streets", "published"): tmp_path / "streets",
        ("streets", "official"): tmp_path / "streets@official",
    }
    for written, read in ((main, found.counts("streets")), (further, found.counts("streets", "official"))):
        for field in dataclasses.fields(ImageCounts):
            np.testing.assert_array_equal(getattr(read, field.name), getattr(written, field.name), field.name)
    with pytest.raises(UserError, match="has no counts of sets by published, but of streets by published"):
        found.counts("sets")


def test_the_table_has_a_row_for_each_image(tmp_path: Path) -> None:
    measured = counts_of()
    order = [2, 0, 3, 1]
    shuffled = dataclasses.replace(
        measured, images=tuple(measured.images[index] for index in order), counts=measured.counts[order]
    )
    write(tmp_path, shuffled)
    rows = list(csv.DictReader((tmp_path / "streets" / "per_image.csv").open(encoding="utf-8")))
    assert [row["image"] for row in rows] == list(measured.images)
    for row, counts, mean in zip(rows, measured.counts, mean_iou(measured.counts), strict=True):
        assert float(row["mIoU"]) == pytest.approx(mean, abs=1e-4)
        assert int(row["area"]) == counts[2].sum() and int(row["area-sky"]) == counts[2, 1]
        assert row["IoU-bus"] == "" and float(row["IoU-road"]) == pytest.approx(class_iou(counts)[0], abs=1e-4)


def test_an_evaluation_that_was_not_completed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "evaluations" / "0000010"
    write(folder, counts_of())

    def full_disk(*arguments: Any) -> None:
        raise WriteError(28, "No space left on device", "per_image.csv")

    monkeypatch.setattr(files, "_write_table", full_disk)
    with pytest.raises(WriteError):
        write(folder, counts_of(1))
    assert final_evaluation(tmp_path) is None


def test_the_final_evaluation_is_the_last_one_of_the_training(tmp_path: Path) -> None:
    assert final_evaluation(tmp_path) is None
    folder = tmp_path / "evaluations"
    for name in ("20261128-213000", "20261128-213000_2", "20261127-090000", "notes"):
        write(folder / name, about=name)
    found = final_evaluation(tmp_path)
    assert found and found.about["about"] == "20261128-213000_2"
    for name in ("0000050", "0000400", "10000000"):
        write(folder / name, about=name)
        found = final_evaluation(tmp_path)
        assert found and found.about["about"] == name and found.sets == {}
    (folder / "20000000").mkdir()  # has no scores
    found = final_evaluation(tmp_path)
    assert found and found.folder.name == "10000000"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.json", b"{", "scores.json is damaged, it is not JSON"),
        ("scores.json", b"{}", "does not list its protocols"),
        ("scores.json", b'{"protocols": ["published"], "scores": {"a": 1}}', "does not have scores by data set"),
        ("streets/confusion.npz", b"PK\x03\x04", "confusion.npz is damaged"),
        ("streets/confusion.npz", b"", "confusion.npz is damaged"),
    ],
)
def test_a_damaged_file_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(tmp_path, counts_of())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{message}.*evaluate again"):
        read_evaluation(tmp_path).counts("streets")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", np.zeros((3, 3, 3), np.int64)),
        ("matrix", np.zeros((4, 4))),
        ("absent", np.array("sometimes")),
        ("boundary_counts", np.zeros((4, 2, 3), np.int64)),
    ],
)
def test_arrays_must_fit_each_other(tmp_path: Path, name: str, value: Any) -> None:
    found = write(tmp_path, counts_of())
    file = tmp_path / "streets" / "confusion.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez(file, **{**arrays, name: value})
    with pytest.raises(UserError, match=f"confusion.npz has no valid {name}"):
        found.counts("streets")


def test_scores_are_strict_json(tmp_path: Path) -> None:
    write(tmp_path, counts_of(), weights="bad\udcff.pth")
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["weights"] == "bad?.pth"
