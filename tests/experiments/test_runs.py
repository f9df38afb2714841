"""Reports of output folders, with and without the files of an evaluation."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clouds.commands import report
from clouds.d2 import DatasetCatalog
from clouds.evaluation.files import ImageCounts, class_iou, mean_iou, write_evaluation

CLASSES = ("road", "car_x", "sky")
SETS = ("day_val", "night_val")
IMAGES = tuple(f"{number:03d}" for number in range(30))


def write_run(folder: Path, right: float, *, protocol: str = "full_resolution", files: bool = True) -> None:
    """Write a run whose network finds a share `right` of each class, more or less by image."""
    rng = np.random.default_rng(0)
    results, measured = {}, []
    for name in SETS:
        shares = np.clip(right + rng.normal(0, 0.05, len(IMAGES)), 0, 1)
        found = np.round(shares[:, None] * np.full(3, 1000)).astype(np.int64)
        counts = np.stack([found, np.roll(1000 - found, 1, axis=1) + found, np.full_like(found, 1000)], axis=1)
        matrix = np.zeros((4, 4), np.int64)
        matrix[:3, :3] = np.diag(found.sum(axis=0)) + np.roll(np.diag((1000 - found).sum(axis=0)), 1, axis=0)
        paths = tuple(str(folder / f"{image}.png") for image in IMAGES)
        measured.append(ImageCounts(name, protocol, CLASSES, IMAGES, paths, counts, matrix))
        iou = {f"IoU-{each}": float(value) for each, value in zip(CLASSES, class_iou(counts.sum(0)), strict=True)}
        results[name] = {"sem_seg": {"mIoU": float(mean_iou(counts.sum(0))), "fwIoU": 50.0, **iou}}
    folder.mkdir(parents=True)
    flat = {f"{name}/sem_seg/{key}": value for name, each in results.items() for key, value in each["sem_seg"].items()}
    rows = [{"iteration": 0, "total_loss": 2.0}, {"iteration": 1, "total_loss": 1.0}, {"iteration": 2, **flat}]
    (folder / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "config.yaml").write_text(f"SEED: 1\nTEST:\n  PROTOCOLS: [{protocol}]\n")
    entry = {"kind": "training", "run": "20261130-142233-3fa9", "config": "config.yaml", "code": {"commit": "abc"}}
    (folder / "run.json").write_text(json.dumps([entry]))
    if files:
        about = {"protocol": protocol, "protocols": [protocol], "train": ["sim_train"], "data": {}, "commit": "abc"}
        write_evaluation(folder / "evaluations/0000002", about, results, measured)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    for row, right in (("warmup", 0.6), ("joint", 0.7)):
        for seed in (1, 2, 3):
            write_run(tmp_path / row / f"seed{seed}", right + 0.002 * seed * (1 if row == "joint" else -1))
    yield tmp_path


def test_table_and_conclusion(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(runs / "warmup"), str(runs / "joint")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("full_resolution") == 6
    assert "Over 3 seeds, the 95 % interval excludes zero in the only comparison." in shown
    assert "“joint” is better than “warmup” by " in shown


def test_report_has_every_file(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    assert report.main([str(runs), "--output", str(output), "--compare", "joint", "warmup"]) == 0
    page = (output / "report.html").read_text()
    for title in ("Differences", "Classes", "Confusion", "Worst and best images", "Training"):
        assert f">{title}</h2>" in page
    assert "over 60 images, bootstrap" in page
    assert "no longer in their place" in page, "images are not on this disk"
    assert "<figcaption>worst" not in page, "no heading without an image"
    rows = list(csv.DictReader((output / "tables/differences.csv").read_text().splitlines()))
    assert [row["unit"] for row in rows[:2]] == ["seed", "image"]
    assert float(rows[0]["difference"]) == pytest.approx(float(rows[1]["difference"]))
    assert r"car\_x" in (output / "tables/classes-joint.tex").read_text()
    for figure in ("confusion-day_val", "confusion-difference-day_val", "classes", "loss-0"):
        assert "var(" not in (output / f"figures/{figure}.svg").read_text()
        assert (output / f"figures/{figure}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("no_figure_files")
def test_an_old_run_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "old", 0.5, files=False)
    write_run(tmp_path / "new", 0.6)
    assert report.main([str(tmp_path / "old"), str(tmp_path / "new"), "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "has no counts of its images" in page
    assert "One seed shows no interval" in page


def test_rows_of_different_protocols_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.6, protocol="rein_512")
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert report.main(folders) == 0
    assert "not compared: they were measured by different protocols" in capsys.readouterr().out
    assert report.main([*folders, "--compare", "a", "b"]) == 2
    assert "a and b cannot be compared" in capsys.readouterr().err
    assert report.main([*folders, "--compare", "a", "c"]) == 2


@pytest.mark.usefixtures("no_figure_files")
def test_an_experiment_has_the_texts_of_its_plan(runs: Path, tmp_path: Path) -> None:
    (runs / "config.yaml").write_text("DATASETS:\n  TRAIN: [sim_train]\nTEST:\n  SELECT_ON: night_val\n")
    rows = {key: {"title": f"row {key}", "config": str(runs / "config.yaml")} for key in ("warmup", "joint")}
    plan = {"title": "A plan", "output": "o", "seeds": 3, "rows": rows, "compare": [["warmup", "joint"]]}
    baselines = {"a constant": {"day_val": 1.25}}
    (runs / "plan.yaml").write_text(json.dumps(plan | {"unseen": ["night_val"], "baselines": baselines}))
    assert report.main([str(runs), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/report.html").read_text()
    assert "<title>A plan</title>" in page
    assert "a constant" in page
    assert "“row warmup” is worse than “row joint” by " in page
    assert "†" in page, "the rows were selected on a test domain"


@pytest.mark.usefixtures("no_figure_files")
def test_a_damaged_plan_is_said(runs: Path, tmp_path: Path) -> None:
    (runs / "plan.yaml").write_text("title: A plan\n")
    assert report.main([str(runs), "--output", str(tmp_path / "report")]) == 0
    assert "The plan of the experiment cannot be read" in (tmp_path / "report/report.html").read_text()


def test_data_set_described_relative_to_the_folder_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = tmp_path / "started"
    write_run(started / "output", 0.5)
    (started / "mine.yaml").write_text(
        "name: mine_reported\nclasses: cityscapes\nsplits:\n  val: {images: '*.jpg', labels: '*.png'}\n"
    )
    (started / "output/config.yaml").write_text("SEED: 1\nDATASETS:\n  CUSTOM: [mine.yaml]\n")
    record = json.loads((started / "output/run.json").read_text())
    (started / "output/run.json").write_text(json.dumps([record[0] | {"folder": str(started)}]))
    assert report.main([str(started / "output")]) == 0
    assert "mine_reported_val" in DatasetCatalog.list()
