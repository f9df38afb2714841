"""The digest that ends a training, and the comparison of two trainings."""

import functools
import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clouds.commands import compare_runs as command
from clouds.d2 import CfgNode
from clouds.data.datasets import catalog
from clouds.engine.run.comparison import compare_runs
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.utils import devices
from clouds.utils.tensors import exact_sha256
from tests.engine.conftest import CLASSES, COLORS


def train(cfg: CfgNode, folder: Path, *, resume: bool = False, **settings: object) -> Path:
    cfg = cfg.clone()
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), *(word for pair in settings.items() for word in pair)])
    cfg.SOLVER.MAX_ITER = cfg.TEST.EVAL_PERIOD = 3
    default_setup(cfg, Namespace(resume=resume, eval_only=False))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return folder


def ending(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())[-1]["ending"]


def test_equal_runs_have_equal_digests(tiny_cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = train(tiny_cfg, tmp_path / "a"), train(tiny_cfg, tmp_path / "b")
    weights = torch.load(a / "model_final.pth", weights_only=True)["model"]
    assert ending(a) == ending(b) == {
        "iterations": 3,
        "weights_sha256": exact_sha256(weights),
        "tower_sha256": torch.load(a / "model_final.pth", weights_only=True)["tower_sha256"],
    }  # fmt: skip
    assert f"sha256 {exact_sha256(weights)}" in (a / "log.txt").read_text()
    capsys.readouterr()
    assert command.main([str(a), str(b)]) == 0
    assert capsys.readouterr().out == f"{a} and {b} do not differ.\n"
    before = ending(a)
    assert ending(train(tiny_cfg, a, resume=True)) == before, "a finished run"


def test_what_differs_is_named(tiny_cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = train(tiny_cfg, tmp_path / "a"), train(tiny_cfg, tmp_path / "b", SEED=4)
    entries = json.loads((b / "run.json").read_text())
    entries[-1]["versions"]["numpy"] = "1.0"
    entries[-1]["code"] = {"commit": "another", "dirty": True, "diff": "git.diff"}
    (b / "git.diff").write_text("+ a line")
    (b / "run.json").write_text(json.dumps(entries))
    capsys.readouterr()
    assert command.main([str(a), str(b)]) == 1
    out = capsys.readouterr().out
    found = {(each.part, each.name): (each.first, each.second) for each in compare_runs(a, b)}
    assert found["settings", "SEED"] == (3, 4)
    assert found["versions", "numpy"][1] == "1.0"
    assert found["code", "commit"][1] == "another"
    assert found["code", "local changes"][1] == "+ a line"
    assert ("ending", "weights_sha256") in found
    [weights] = [name for part, name in found if part == "weights"]
    assert weights.startswith("4 of 5 tensors, most by ")
    [metrics] = [name for part, name in found if part == "metrics"]
    assert metrics.endswith("first at iteration 0"), "the scores before the first step"
    assert all(part in out for part in ("settings", "versions", "code", "weights", "metrics"))


def test_other_data_are_named(
    tiny_cfg: CfgNode, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_root))
    a = train(tiny_cfg, tmp_path / "a")
    copy = Path(shutil.copytree(tiny_root, tmp_path / "copy"))
    with sorted((copy / "val").rglob("*.png"))[0].open("ab") as file:
        file.write(b"more")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(copy))
    for split in ("train", "val"):
        name, folder = f"tiny_{split}", copy / split
        pair = functools.partial(catalog.pair_by_stem, name, folder / "images", ".png", folder / "labels")
        catalog.register(name, functools.partial(pair, "_labelTrainIds.png"), classes=CLASSES, colors=COLORS)
    [found] = [each for each in compare_runs(a, train(tiny_cfg, tmp_path / "b")) if each.part == "data"]
    recorded = json.loads((a / "run.json").read_text())[-1]["data"]
    assert list(recorded) == ["tiny_train", "tiny_val"]
    assert (found.name, found.first) == ("tiny_val", recorded["tiny_val"])


def test_an_error_is_one_sentence(tmp_path: Path, sentence: Callable[..., str]) -> None:
    assert "has no record of a training" in sentence(command.main, str(tmp_path), str(tmp_path))


def test_a_digest_sees_every_bit() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.tensor(1.0)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.tensor(1.0)},
        {"a": torch.zeros(2, 3).half(), "b": torch.tensor(1.0)},
        {"a": torch.zeros(2, 3).neg(), "b": torch.tensor(1.0)},
        {"a": torch.zeros(2, 3), "c": torch.tensor(1.0)},
        {"a": torch.zeros(2, 3).bfloat16(), "b": torch.tensor(1.0)},
    ]
    assert len({exact_sha256(each) for each in [one, *others]}) == 6
    assert exact_sha256(dict(reversed(one.items()))) == exact_sha256(one)


def test_deterministic_algorithms_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.os, "environ", {})
    try:
        devices.use_deterministic_algorithms()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
