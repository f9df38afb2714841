"""The demo from the first drawing to the last line, as small as it gets."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from clouds.config import load_config
from clouds.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT)
    flags = ["--output", str(tmp_path / "out"), "--num-train", "4", "--num-val", "2"]
    sizes = ["INPUT.CROP_SIZE", "(64,64)", "INPUT.TEST_SHORT_EDGE", "64", "DATALOADER.NUM_WORKERS", "0"]
    sizes += ["MODEL.CLOUDS.SAM.ENABLED", "False"]  # its weights are no part of the repository
    assert demo.main([*flags, *sizes, "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]) == 0
    table = (tmp_path / "out" / "table.txt").read_text()
    for row in (
        "constant",
        "colour and position",
        "CLOUDS, untrained head",
        "CLOUDS, warmup_convnext",
        "CLOUDS, warm-up",
        "CLOUDS, joint training",
    ):
        assert f"\n{row} " in table
    assert "unseen mean" in table
    assert "full_resolution" in table
    assert (tmp_path / "out" / "pictures.png").stat().st_size > 10_000
    assert "the teacher's" in table
    for stage in ("warmup", "compared", "joint"):
        assert (tmp_path / "out" / stage / "model_final.pth").is_file()


def test_a_comparison_that_fails_is_told(demo, tmp_path):
    training = subprocess.Popen(["false"])
    with pytest.raises(UserError, match=r"console\.txt"):
        demo.finish(training, load_config(ROOT / "configs/minicity/warmup_convnext.yaml"))


def test_a_misspelt_key_is_told_before_anything_is_drawn(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT)
    assert demo.main(["--output", str(tmp_path / "out"), "SOLVER.MAX_ITERS", "2"]) == 2
    assert "SOLVER.MAX_ITER" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
