"""Scores and metrics, read from the folders of runs."""

import json
import math
from pathlib import Path

import pytest

from clouds.engine.run.metrics import read_training
from clouds.errors import UserError
from clouds.experiments.report import Report
from clouds.experiments.results import mean_over, metric_means, read_run


def write(folder: Path, *rows: dict[str, object]) -> Path:
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_scores_are_those_of_the_last_evaluation(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"iteration": 5, "day_val/sem_seg/mIoU": 1.0},
        {"iteration": 9, "day_val/sem_seg/mIoU": 40.0, "fog_val/sem_seg/mIoU": 20.0, "fog_val/sem_seg/fwIoU": "x"}
        | {"fog_val/sem_seg/IoU-road": None, "rain_val/sem_seg/mIoU": 10.0, "total_loss": 3.0},
    )
    scores = read_run(tmp_path, ["fog_val", "rain_val"])
    nan = pytest.approx(math.nan, nan_ok=True)
    assert scores["fog_val"] == {"mIoU": 20.0, "fwIoU": nan}, "what is no number has no value"
    assert mean_over(scores, ["fog_val", "rain_val"]) == 15.0
    with pytest.raises(UserError, match="has no evaluation at its end: continue the training with --resume"):
        read_run(tmp_path / "elsewhere", [])
    with pytest.raises(UserError, match="has no score of night_val: evaluate this data set, too"):
        read_run(tmp_path, ["day_val", "night_val"])


def test_the_row_of_another_program_is_no_evaluation_and_hides_none(tmp_path: Path) -> None:
    write(tmp_path, {"iteration": 9, "day_val/sem_seg/mIoU": 40.0}, {"epoch": 3}, {"iteration": [1], "a": {"b": 1}})
    with (tmp_path / "metrics.json").open("ab") as file:
        file.write(b'{"iteration": 10, "day_val/sem_seg/mIoU": Infinity}\n\xff\n{"iteration": 1')
    assert read_run(tmp_path, ["day_val"])["day_val"]["mIoU"] == 40.0


@pytest.mark.parametrize("value", [-1, 100.5, 1e300, 10**300])
def test_a_score_that_is_no_percentage(tmp_path: Path, value: float) -> None:
    write(tmp_path, {"iteration": 9, "day_val/sem_seg/mIoU": value})
    with pytest.raises(UserError, match=r"day_val/sem_seg/mIoU in .*metrics\.json is .*, which is not a percentage"):
        read_run(tmp_path, ["day_val"])


def test_metrics_begin_with_the_last_start(tmp_path: Path) -> None:
    rows = [{"iteration": step, "total_loss": value} for step, value in ((0, 9.0), (20, 8.0), (0, 5.0), (20, 3.0))]
    assert read_training(write(tmp_path, *rows) / "metrics.json") == rows[2:]
    assert read_training(tmp_path / "elsewhere") == []


def test_means_of_metrics(tmp_path: Path) -> None:
    write(tmp_path, {"iteration": 0, "labels/kept": 10.0, "other": 1.0}, {"iteration": 1, "labels/kept": 30.0})
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 2, "labels/kept": NaN}\n')
        file.write('{"iteration": 3, "labels/kept": 1e308}\n{"iteration": 4, "labels/kept": "50"}\n')
    assert metric_means(tmp_path, "labels/") == {"labels/kept": 20.0}


def test_differences_are_those_of_the_unseen_means(report: Report) -> None:
    (found,) = report.results.differences()
    assert (found.first, found.second, found.count) == ("joint training", "plain training", 3)
    assert found.mean == pytest.approx(30.5 - 20.25 + 0.1 * 2)
    assert report.results.unseen_means("plain") == {1: 21.25, 2: 22.25, 3: 23.25}
