"""A training that is killed at any point and resumed leaves the record of an uninterrupted one."""

import itertools
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clouds.d2 import META_ARCH_REGISTRY, CfgNode, HookBase
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.hooks import PeriodicWriter
from clouds.engine.run import record
from clouds.engine.run.metrics import LOSS, read_training
from clouds.engine.setup import default_setup
from clouds.engine.trainer import Trainer
from clouds.engine.writers import MetricsWriter
from clouds.errors import UserError

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Ends a run where a signal would: nothing that the run does afterwards counts."""


@dataclass
class Killer:
    """Counts the points at which a run can be killed, and kills it at one of them.

    Only what is on the disk survives, so the points lie before, within and after whatever changes it.

    Attributes:
        at: number of the point; None to let the run live.
        passed: names of the points so far.
    """

    at: int | None = None
    passed: list[str] = field(default_factory=list)

    def point(self, name: str) -> None:
        if not self.is_dead:
            self.passed.append(name)
        if self.is_dead:  # also what a `finally` does is not done any more
            raise Killed(name)

    @property
    def is_dead(self) -> bool:
        return self.at is not None and len(self.passed) > self.at

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a point before it."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.point(name)
            return function(*args, **kwargs)

        return watched


KILLER = Killer()


class HalvesFile:
    """File that can be killed with half of a text written."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, content: bytes) -> int:
        KILLER.point("write")
        for name, half in (("half", content[: len(content) // 2]), ("whole", content[len(content) // 2 :])):
            self.file.write(half)
            self.file.flush()
            KILLER.point(name)
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Line(nn.Module):
    """Network of two parameters."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        x = torch.tensor([[float(batch[0]["x"])]])
        return {"loss_line": (self.line(x) - 2 * x).square().mean(), "loss_noise": torch.rand(())}


if "Line" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(Line)


class Numbers:
    """Loader of the numbers 0, 1, 2, ... that a checkpoint continues."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Iterator[list[dict]]:
        while True:
            self.next += 1
            yield [{"x": self.next % 5, "file_name": "number"}]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class Mortal(Trainer):
    """Trainer of `Line` that `KILLER` can kill, with rows every `row_period` iterations."""

    row_period: int

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return Numbers()

    @classmethod
    def check_test_sets(cls, cfg: CfgNode) -> None:
        pass

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, *, seed: int | None = None, **_: object) -> dict:
        KILLER.point("evaluation")
        return {"tiny_val": {"sem_seg": {"mIoU": model.line.weight.item(), "IoU-none": float("nan")}}}

    def build_writers(self) -> list[MetricsWriter]:
        writer = MetricsWriter(Path(self.cfg.OUTPUT_DIR) / "metrics.json")
        writer._file = HalvesFile(writer._file)
        return [writer]

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        for hook in hooks:
            if isinstance(hook, PeriodicWriter):
                hook.period = self.row_period
        return hooks

    def after_train(self) -> None:
        if not KILLER.is_dead:
            super().after_train()


@pytest.fixture
def cfg(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    tiny_cfg.MODEL.META_ARCHITECTURE = "Line"
    tiny_cfg.SOLVER.CHECKPOINTS_KEPT = 2
    monkeypatch.setattr(record, "git_state", lambda: ({"commit": "none"}, b""))  # these two take most of the time
    monkeypatch.setattr(record, "versions", dict)
    # The points have an order: a checkpoint is written before the training goes on.
    save = Checkpointer.save
    monkeypatch.setattr(Checkpointer, "save", lambda self, name, **extra: (save(self, name, **extra), self.wait()))
    for place, name in ((os, "truncate"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(place, name, KILLER.watch(name, getattr(place, name)))
    return tiny_cfg


def run(cfg: CfgNode, folder: Path, *, resume: bool = False, at: int | None = None) -> list[str]:
    """Train until the end or until the point `at`, and return the names of the points."""
    KILLER.at, KILLER.passed = None, []
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    try:
        default_setup(cfg, Namespace(resume=resume, eval_only=False))
        KILLER.at, KILLER.passed = at, []
        trainer = Mortal(cfg)
        trainer.resume_or_load(resume)
        trainer.train()
        KILLER.point("end")
    except Killed:
        assert at is not None
    finally:
        KILLER.at = None
    return list(KILLER.passed)


def rows(folder: Path) -> list[dict]:
    """All rows of the record, without times."""
    lines = (folder / "metrics.json").read_bytes().decode().splitlines(keepends=True)
    assert all(line.endswith("\n") for line in lines)
    found = [json.loads(line) for line in lines]
    assert found == read_training(folder / "metrics.json")
    return [{k: v for k, v in row.items() if not k.endswith(("time", "_seconds"))} for row in found]


SCHEDULES = [  # iterations, evaluation period, checkpoint period, row period
    (6, 2, 2, 3),
    (5, 0, 2, 3),
    (3, 1, 1, 1),
    (7, 4, 3, 5),
]


def scheduled(cfg: CfgNode, schedule: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD = schedule[:3]
    monkeypatch.setattr(Mortal, "row_period", schedule[3], raising=False)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_killed_anywhere_and_resumed(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: tuple[int, int, int, int]
) -> None:
    scheduled(cfg, schedule, monkeypatch)
    points = run(cfg, tmp_path / "straight")
    expected = rows(tmp_path / "straight")
    assert expected[-1].keys() == {"iteration", "tiny_val/sem_seg/mIoU"}
    assert points.count("replace") > 3
    assert points.count("half") == len(expected)
    for at in range(len(points)):
        folder = tmp_path / str(at)
        assert len(run(cfg, folder, at=at)) == at + 1
        run(cfg, folder, resume=True)
        assert rows(folder) == expected, points[at]
        shutil.rmtree(folder)
    run(cfg, tmp_path / "straight", resume=True)
    assert rows(tmp_path / "straight") == expected, "a run that has finished"


def test_killed_while_the_record_is_repaired(cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed during an evaluation or a row, then twice at the beginning of the resumed run."""
    scheduled(cfg, (6, 2, 2, 3), monkeypatch)
    points = run(cfg, tmp_path / "straight")
    expected = rows(tmp_path / "straight")
    firsts = [at for at, name in enumerate(points) if name in ("evaluation", "half")][2::2]
    for first, second in itertools.product(firsts, range(6)):
        folder = tmp_path / f"{first}-{second}"
        run(cfg, folder, at=first)
        run(cfg, folder, resume=True, at=second)
        run(cfg, folder, resume=True, at=second // 2)
        run(cfg, folder, resume=True)
        assert rows(folder) == expected, (first, second)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["evaluation", "write", "half"])
def test_the_last_evaluation_is_made_up_for_once(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As an experiment's runner does it: the same command until it ends well, then again."""
    scheduled(cfg, (4, 0, 0, 20), monkeypatch)
    points = run(cfg, tmp_path / "straight")
    last = max(at for at, each in enumerate(points) if each == name)
    run(cfg, tmp_path / "killed", at=last)
    assert [LOSS in row for row in read_training(tmp_path / "killed/metrics.json")] == [True]
    for _ in range(3):
        run(cfg, tmp_path / "killed", resume=True)
        assert rows(tmp_path / "killed") == rows(tmp_path / "straight")


@pytest.mark.parametrize("longer", [5, 8])
def test_a_longer_training_keeps_the_end_of_the_shorter_one(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: int
) -> None:
    """With the longer schedule, the evaluation after iteration 3 is a periodic one; it is recorded once."""
    scheduled(cfg, (4, 2, 2, 3), monkeypatch)
    points = run(cfg, tmp_path / "straight")
    shorter = rows(tmp_path / "straight")
    cfg.SOLVER.MAX_ITER = longer
    run(cfg, tmp_path / "straight", resume=True)
    expected = rows(tmp_path / "straight")
    assert expected[: len(shorter)] == shorter
    assert [LOSS in row for row in expected[len(shorter) - 2 :]] == [True, False, *[True] * ((longer - 3) // 2), False]
    lost = max(at for at, name in enumerate(points) if name == "evaluation")
    cfg.SOLVER.MAX_ITER = 4
    run(cfg, tmp_path / "killed", at=lost)
    cfg.SOLVER.MAX_ITER = longer
    run(cfg, tmp_path / "killed", resume=True)
    assert rows(tmp_path / "killed") == expected


def test_a_shorter_training_than_the_checkpoint_is_evaluated_and_recorded(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled(cfg, (6, 0, 3, 2), monkeypatch)
    points = run(cfg, tmp_path / "straight")
    run(cfg, tmp_path, at=points.index("write", points.index("whole")))
    cfg.SOLVER.MAX_ITER = 2
    for _ in range(2):
        run(cfg, tmp_path, resume=True)
        assert [(row["iteration"], LOSS in row) for row in rows(tmp_path)] == [(1, True), (2, True), (3, False)]
    cfg.SOLVER.MAX_ITER = 6
    run(cfg, tmp_path, resume=True)
    assert rows(tmp_path)[-3:] == rows(tmp_path / "straight")[-3:]


def test_every_evaluation_has_scores_on_record(cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled(cfg, (3, 1, 0, 20), monkeypatch)
    run(cfg, tmp_path)
    found = [(row["iteration"], LOSS in row, "tiny_val/sem_seg/mIoU" in row) for row in rows(tmp_path)]
    assert found == [(0, False, True), (0, True, True), (1, True, True), (2, True, False), (3, False, True)]


def test_an_error_leaves_no_row_of_its_own(cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled(cfg, (6, 4, 2, 5), monkeypatch)
    run(cfg, tmp_path / "straight")

    def fail(trainer: Mortal) -> None:
        if trainer.iter == 2:
            raise UserError("no such image")
        Trainer.run_step(trainer)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no such image"):
        patch.setattr(Mortal, "run_step", fail)
        run(cfg, tmp_path / "failed")
    assert rows(tmp_path / "failed") == rows(tmp_path / "straight")[:1]
    run(cfg, tmp_path / "failed", resume=True)
    assert rows(tmp_path / "failed") == rows(tmp_path / "straight")
