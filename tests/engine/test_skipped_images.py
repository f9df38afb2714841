"""Trainings on images that cannot be read: stopped, or continued without them, with a list and a limit."""

import json
from pathlib import Path

import pytest
from PIL import Image

from clouds.d2 import CfgNode
from clouds.data.datasets import catalog
from clouds.errors import UserError
from tests.engine.conftest import CLASSES, COLORS, write_images
from tests.engine.test_resume import killed_and_resumed, same, train, trained


@pytest.fixture
def broken(tiny_cfg: CfgNode, tmp_path: Path) -> CfgNode:
    """20 training images of which three cannot be read, each for another reason; `ON_ERROR` is skip."""
    folder = tmp_path / "broken"
    write_images(folder, 20)
    (folder / "images/3.png").write_bytes((folder / "images/3.png").read_bytes()[:100])
    (folder / "labels/8_labelTrainIds.png").write_bytes(b"no label map")
    Image.new("RGB", (9, 9)).save(folder / "images/15.png")

    def load() -> list[dict]:
        return catalog.pair_by_stem("broken", folder / "images", ".png", folder / "labels", "_labelTrainIds.png")

    catalog.register("broken", load, classes=CLASSES, colors=COLORS)
    tiny_cfg.DATASETS.TRAIN = ("broken",)
    tiny_cfg.DATALOADER.ON_ERROR = "skip"
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD, tiny_cfg.TEST.EVAL_PERIOD = 12, 3, 0
    return tiny_cfg


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_training_skips_what_an_undisturbed_one_skips(broken: CfgNode, tmp_path: Path, workers: int) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(broken, straight)
    rows = listed(straight)
    names = [Path(row["file_name"]).name for row in rows]
    assert sorted(names) == ["15.png", "3.png", "8.png"]
    assert all(row["iteration"] < 12 for row in rows)
    log = (straight / "log.txt").read_text()
    for row in rows:
        assert log.count(f"An image is skipped: {row['reason']}") == 1, "met in several epochs, and named once"
    assert f"3 training image(s) could not be read and were skipped, see {straight / 'skipped.jsonl'}" in log

    broken.DATALOADER.NUM_WORKERS = workers
    at = sorted(row["iteration"] for row in rows)[1] // 3 * 3 - 1  # the last checkpoint before the second one is met
    killed_and_resumed(broken, killed, max(at, 2))
    assert listed(killed) == rows
    assert same(trained(killed / "model_final.pth"), trained(straight / "model_final.pth"))


def test_a_row_behind_the_checkpoint_is_met_again(broken: CfgNode, tmp_path: Path) -> None:
    train(broken, tmp_path / "straight")
    broken.SOLVER.MAX_ITER = 6
    train(broken, tmp_path / "run")
    later = {"file_name": "behind.png", "reason": "Met by the run that was killed.", "iteration": 7}
    with (tmp_path / "run/skipped.jsonl").open("a") as file:
        file.write(json.dumps(later) + "\n")
    broken.SOLVER.MAX_ITER = 12
    train(broken, tmp_path / "run", resume=True)
    assert listed(tmp_path / "run") == listed(tmp_path / "straight")


def test_a_training_that_stopped_at_an_image_goes_on_without_it(broken: CfgNode, tmp_path: Path) -> None:
    train(broken, tmp_path / "straight")
    broken.DATALOADER.ON_ERROR = "raise"
    broken.SOLVER.CHECKPOINT_PERIOD = 1
    with pytest.raises(UserError, match=r"images/|labels/"):
        train(broken, tmp_path / "run")
    broken.DATALOADER.ON_ERROR = "skip"
    train(broken, tmp_path / "run", resume=True)
    assert listed(tmp_path / "run") == listed(tmp_path / "straight")
    assert same(trained(tmp_path / "run/model_final.pth"), trained(tmp_path / "straight/model_final.pth"))


def test_too_many_stop_the_training(broken: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clouds.engine.hooks.skipped_images.FEW", 2)
    with pytest.raises(UserError, match=r"3 of 20 training images cannot be read, .*skip allows 2: repair those in "):
        train(broken, tmp_path / "run")
    assert len(listed(tmp_path / "run")) == 3


def test_an_evaluation_never_skips(broken: CfgNode, tmp_path: Path) -> None:
    broken.DATASETS.TRAIN, broken.DATASETS.TEST = ("tiny_train",), ("broken",)
    with pytest.raises(UserError, match=r"3\.png|8_labelTrainIds\.png|15\.png"):
        train(broken, tmp_path / "run")
    assert not (tmp_path / "run/skipped.jsonl").exists()
