"""The W&B writer, with a fake module wandb that writes its calls to a file; no test uses a network."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from clouds.d2 import CfgNode
from clouds.engine.run.record import read_record
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.errors import UserError

FAKE = """
import json, pathlib
calls = pathlib.Path(__file__).with_suffix(".jsonl")
class Run:
    def say(self, *call):
        with calls.open("a") as file:
            file.write(json.dumps(call) + "\\n")
    def log(self, data, step):
        self.say("log", data, step)
    def finish(self):
        self.say("finish")
def init(**options):
    Run().say("init", options)
    return Run()
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """File with the calls of the fake wandb."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site" / "wandb.jsonl"
    sys.modules.pop("wandb", None)


def train(cfg: CfgNode, **flags: bool) -> list[dict]:
    cfg = cfg.clone()
    default_setup(cfg, Namespace(**flags))
    trainer = Trainer(cfg)
    trainer.resume_or_load(flags.get("resume", False))
    trainer.train()
    return read_record(Path(cfg.OUTPUT_DIR))


def told(calls: Path) -> list[list]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def test_a_training_is_sent_and_goes_on_in_its_run(tiny_cfg: CfgNode, calls: Path) -> None:
    tiny_cfg.WANDB.PROJECT, tiny_cfg.WANDB.NAME = "streets", "first try"
    tiny_cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS = ""  # drawn at random, so it has to be stored
    (entry,) = train(tiny_cfg)
    init, *rows, last = told(calls)
    assert last == ["finish"]
    options = init[1]
    assert options["config"]["SOLVER"]["BASE_LR"] == 0.1
    assert {name: options[name] for name in ("project", "name", "id", "resume", "dir")} == {
        "project": "streets",
        "name": "first try",
        "id": entry["run"],
        "resume": "allow",
        "dir": tiny_cfg.OUTPUT_DIR,
    }
    steps = [step for _, _, step in rows]
    assert steps == sorted(set(steps)), "each iteration once, and never back"
    sent = {step: data for _, data, step in rows}
    written = [json.loads(line) for line in (Path(tiny_cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]
    assert sent == {row.pop("iteration"): row for row in written}
    assert sent[10]["tiny_val/sem_seg/mIoU"] > 0 and "total_loss" in sent[9]

    calls.unlink()
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.WANDB.NAME = 12, ""
    train(tiny_cfg, resume=True)
    init, *rows, last = told(calls)
    assert (init[1]["id"], init[1]["name"]) == (entry["run"], None)
    assert min(step for _, _, step in rows) >= 10

    calls.unlink()
    assert train(tiny_cfg)[-1]["run"] == told(calls)[0][1]["id"] != entry["run"], "a new training, a new run"


def test_without_a_project_nothing_is_sent_or_imported(tiny_cfg: CfgNode, calls: Path) -> None:
    tiny_cfg.SOLVER.MAX_ITER = 1
    tiny_cfg.WANDB.NAME = "a name is no project"
    train(tiny_cfg)
    assert "wandb" not in sys.modules
    assert not calls.exists()


@pytest.mark.parametrize("leftovers", [False, True])
def test_asked_for_and_not_installed(
    tiny_cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leftovers: bool
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if leftovers:  # the folder in which W&B keeps its own files would import as a package
        (tmp_path / "wandb").mkdir()
    tiny_cfg.WANDB.PROJECT = "streets"
    message = (
        r"^WANDB\.PROJECT is 'streets', but wandb is not installed: pip install -e '\.\[wandb\]', or leave .* empty\.$"
    )
    with pytest.raises(UserError, match=message):
        default_setup(tiny_cfg.clone(), Namespace())
    assert not Path(tiny_cfg.OUTPUT_DIR).exists(), "told before anything is begun"
    monkeypatch.undo()
    default_setup(tiny_cfg, Namespace(eval_only=True))  # which has no curves
