"""A run that is killed and resumed equals an uninterrupted run: weights, optimizer, record."""

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.commands.train import main
from clouds.d2 import CfgNode, HookBase
from clouds.engine.hooks import PeriodicCheckpoint
from clouds.engine.run.metrics import repair
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from tests.engine.test_end_to_end import MODULE, ROOT, last_table, write_config

# Kills its process with half of a checkpoint written.
KILLER = """
import os, signal, torch

if "KILL_IN_CHECKPOINT" in os.environ:
    whole = torch.save

    def save(content, file):
        if content["iteration"] == int(os.environ["KILL_IN_CHECKPOINT"]):
            file.write(b"half a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        whole(content, file)

    torch.save = save
"""


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal bit for bit, tensors included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def trained(file: Path) -> dict[str, Any]:
    """The content of a checkpoint without the run that it belongs to."""
    content = torch.load(file, weights_only=True)
    return {key: value for key, value in content.items() if key not in ("run", "settings")}


def rows(folder: Path | str) -> list[dict[str, float]]:
    """The record without times."""
    lines = (Path(folder) / "metrics.json").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith(("time", "_seconds"))} for line in lines]


@pytest.mark.slow
def test_forty_iterations_are_twenty_and_kill_9_and_twenty(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_root))
    monkeypatch.syspath_prepend(tmp_path)
    file = write_config(tmp_path / "c.yaml", backbone="CLIP", plugin="plugin_that_kills", module=f"{MODULE}{KILLER}")
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    def words(folder: Path, *flags: str) -> list[str]:
        opts = "DATALOADER.NUM_WORKERS 1 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 40 SOLVER.CHECKPOINT_PERIOD 10"
        more = "SOLVER.LR_SCHEDULER_NAME WarmupPolyLR SOLVER.CHECKPOINTS_KEPT 2 TEST.EVAL_PERIOD 12"
        return ["--config-file", str(file), *flags, "OUTPUT_DIR", str(folder), *opts.split(), *more.split()]

    environment = {
        **os.environ,
        "KILL_IN_CHECKPOINT": "29",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        # Another number of threads adds up in another order.
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    process = subprocess.Popen(
        [sys.executable, "train_net.py", *words(killed)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert main(words(straight)) == 0  # meanwhile
    _, errors = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, errors.decode()[-2000:]
    *whole, half = sorted(path.name for path in killed.glob("model_*"))
    assert whole == ["model_0000009.pth", "model_0000019.pth"]
    assert half == f"model_0000029.pth.{process.pid}.part"
    assert rows(killed)[-1]["iteration"] >= 23, "it got past its last checkpoint, and said so"
    assert rows(killed) == rows(straight)[: len(rows(killed))]

    assert main(words(killed, "--resume")) == 0
    log = (killed / "log.txt").read_text()
    assert "Starting training from iteration 20" in log
    assert rows(killed) == rows(straight)
    assert [row["iteration"] for row in rows(killed)] == [0, 11, 19, 23, 35, 39, 40]
    assert last_table(killed) == last_table(straight)
    assert {path.name for path in killed.glob("model_*")} == {path.name for path in straight.glob("model_*")}
    for name in ("model_0000019.pth", "model_0000029.pth", "model_final.pth"):
        ours, theirs = (trained(folder / name) for folder in (killed, straight))
        assert same(ours, theirs), name
        assert {"model", "optimizer", "scheduler", "data", "history"} <= ours.keys()
    assert not same(trained(straight / "model_0000029.pth"), ours), "or being the same would mean nothing"


class Killed(Trainer):
    """Trainer that stops right after a checkpoint, without the handling of an exception."""

    at: int

    def build_hooks(self) -> list[HookBase]:
        class Death(HookBase):
            def after_step(self) -> None:
                if self.trainer.iter == self.trainer.at:
                    self.trainer.checkpointer.wait()
                    raise KeyboardInterrupt

        hooks = super().build_hooks()
        after = next(index for index, hook in enumerate(hooks) if isinstance(hook, PeriodicCheckpoint)) + 1
        return [*hooks[:after], Death(), *hooks[after:]]

    def after_train(self) -> None:
        pass


def train(cfg: CfgNode, folder: Path, *, resume: bool = False, kind: type[Trainer] = Trainer) -> Trainer:
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    default_setup(cfg, Namespace(resume=resume, eval_only=False))
    trainer = kind(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def killed_and_resumed(cfg: CfgNode, folder: Path, at: int) -> Trainer:
    """Train, stop after the checkpoint of iteration ``at``, resume."""
    with pytest.raises(KeyboardInterrupt):
        train(cfg, folder, kind=type("Killed", (Killed,), {"at": at}))
    return train(cfg, folder, resume=True)


@pytest.mark.parametrize(
    ("evaluate", "checkpoint", "made_up"),
    [
        (8, 8, True),  # the evaluation after iteration 7 is lost
        (0, 20, False),  # the row of iteration 19 is lost
        (0, 13, False),  # the row of iteration 19 has losses from before and after the checkpoint
    ],
)
def test_the_record_has_no_gap(
    tiny_cfg: CfgNode, tmp_path: Path, evaluate: int, checkpoint: int, made_up: bool
) -> None:
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 24, evaluate, checkpoint
    train(tiny_cfg, tmp_path / "straight")
    killed_and_resumed(tiny_cfg, tmp_path / "killed", checkpoint - 1)
    assert rows(tmp_path / "killed") == rows(tmp_path / "straight")
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert ("is not in metrics.json: evaluating again" in log) is made_up


def test_the_evaluation_that_ended_a_shorter_training_stays_on_record(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD = 3, 0
    train(tiny_cfg, tmp_path)
    before = rows(tmp_path)
    tiny_cfg.SOLVER.MAX_ITER = 5
    train(tiny_cfg, tmp_path, resume=True)
    assert [row["iteration"] for row in rows(tmp_path)] == [2, 3, 4, 5]
    assert rows(tmp_path)[:2] == before


def test_weights_alone_cannot_be_resumed(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.SOLVER.MAX_ITER = 1
    content = {"model": train(tiny_cfg, tmp_path).model.state_dict()}
    torch.save(content, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match=r"model_final\.pth holds weights but no training to resume: .*MODEL\.WEIGHTS"):
        train(tiny_cfg, tmp_path, resume=True)


@given(
    older=st.lists(st.integers(0, 60), max_size=8, unique=True).map(sorted),
    newest=st.lists(st.integers(0, 60), max_size=12, unique=True).map(sorted),
    start=st.integers(1, 62),
    tail=st.sampled_from(["", "{", '{"iteration": 3', '{"iteration": 99, "total_loss": 1}']),
)
def test_cutting_the_record(
    tmp_path_factory: pytest.TempPathFactory, older: list[int], newest: list[int], start: int, tail: str
) -> None:
    if older and newest and newest[0] >= older[-1]:
        older = []  # reads as one training
    path = tmp_path_factory.mktemp("record") / "metrics.json"

    def text(iterations: list[int]) -> str:
        return "".join(json.dumps({"iteration": i, "total_loss": 1.5}) + "\n" for i in iterations)

    path.write_text("not JSON\n" + text(older) + text(newest) + tail)
    newest = newest or older
    older = [] if newest is older else older
    with path.open("a") as writer:  # as the writer of a run that goes on
        assert repair(path, start, []).losses is (start - 1 in newest)
        writer.write("next\n")
    assert path.read_text() == "not JSON\n" + text(older) + text([i for i in newest if i < start]) + "next\n"
