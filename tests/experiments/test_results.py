"""Scores and metrics, read from the folders of runs."""

import json
from pathlib import Path

import pytest

from clouds.errors import UserError
from clouds.experiments.report import Report
from clouds.experiments.results import mean_over, metric_means, read_metrics, read_scores


def write(folder: Path, *rows: dict[str, object]) -> Path:
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_scores_are_those_of_the_last_evaluation(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"iteration": 5, "day_val/sem_seg/mIoU": 1.0},
        {"iteration": 9, "day_val/sem_seg/mIoU": 40.0, "fog_val/sem_seg/mIoU": 20.0}
        | {"fog_val/sem_seg/IoU-road": None, "rain_val/sem_seg/mIoU": 10.0, "total_loss": 3.0},
    )
    scores = read_scores(tmp_path)
    assert scores["fog_val"] == {"mIoU": 20.0, "IoU-road": pytest.approx(float("nan"), nan_ok=True)}
    assert mean_over(scores, ["fog_val", "rain_val"]) == 15.0
    with pytest.raises(UserError, match="has no evaluation"):
        read_scores(tmp_path / "elsewhere")


def test_metrics_begin_with_the_last_start(tmp_path: Path) -> None:
    rows = [{"iteration": step, "loss": value} for step, value in ((0, 9.0), (20, 8.0), (0, 5.0), (20, 3.0))]
    assert read_metrics(write(tmp_path, *rows)) == rows[2:]
    assert read_metrics(tmp_path / "elsewhere") == []


def test_means_of_metrics(tmp_path: Path) -> None:
    write(tmp_path, {"iteration": 0, "labels/kept": 10.0, "other": 1.0}, {"iteration": 1, "labels/kept": 30.0})
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 2, "labels/kept": NaN}\n')
    assert metric_means(tmp_path, "labels/") == {"labels/kept": 20.0}


def test_differences_are_those_of_the_unseen_means(report: Report) -> None:
    (found,) = report.results.differences()
    assert (found.first, found.second, found.count) == ("joint training", "plain training", 3)
    assert found.mean == pytest.approx(30.5 - 20.25 + 0.1 * 2)
    assert report.results.unseen_means("plain") == {1: 21.25, 2: 22.25, 3: 23.25}
