"""A training that a signal stops at any point saves, and the resumed one leaves the record of an undisturbed one."""

import shutil
import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from clouds.d2 import CfgNode
from clouds.engine.setup import default_setup
from clouds.utils.signals import Stopped, stop_here, stop_on_signals, stop_requested
from tests.engine.test_kills import SCHEDULES, Mortal, cfg, rows, scheduled  # noqa: F401  (a fixture)
from tests.marks import slow


def ask() -> None:
    """Send this process a signal, and wait until its thread has read it."""
    signal.raise_signal(signal.SIGUSR1)
    end = time.monotonic() + 60
    while stop_requested() is None and time.monotonic() < end:
        time.sleep(0.001)


class Asked(Mortal):
    """Trainer that gets a signal at the point `at`: points are the steps, and beginning and end of an evaluation."""

    at = -1
    points = 0
    trained: ClassVar[list[int]] = []

    @classmethod
    def point(cls) -> None:
        if Asked.points == Asked.at:
            ask()
        Asked.points += 1

    @classmethod
    def test(cls, *args: object, **kwargs: object) -> dict:
        cls.point()
        stop_here()  # before the first image
        results = super().test(*args, **kwargs)
        cls.point()
        return results

    def run_step(self) -> None:
        self.point()
        super().run_step()
        self.trained.append(self.iter)


def run(config: CfgNode, folder: Path, *, at: int = -1, resume: bool = False) -> int:
    """Train until the end or until the signal at a point; returns the number of points."""
    Asked.at, Asked.points = at, 0
    config = config.clone()
    config.OUTPUT_DIR = str(folder)
    default_setup(config, Namespace(resume=resume, eval_only=False))
    trainer = Asked(config)
    with stop_on_signals():
        try:
            trainer.resume_or_load(resume)
            trainer.train()
        except Stopped as stopped:
            assert at >= 0
            sentence = f"the training is saved in {folder}, and the same command with --resume goes on."
            assert str(stopped) == f"Stopped by SIGUSR1: {sentence}"
    return Asked.points


@pytest.mark.parametrize("schedule", [SCHEDULES[0], *slow(*SCHEDULES[1:])])
def test_stopped_anywhere_and_resumed(
    cfg: CfgNode,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    schedule: tuple[int, int, int, int],
) -> None:
    scheduled(cfg, schedule, monkeypatch)
    cfg.SOLVER.CHECKPOINTS_KEPT = 0
    points = run(cfg, tmp_path / "straight")
    expected, weights = rows(tmp_path / "straight"), torch.load(tmp_path / "straight/model_final.pth")["model"]
    assert points > cfg.SOLVER.MAX_ITER
    for at in range(points):
        folder = tmp_path / str(at)
        Asked.trained = []
        done = run(cfg, folder, at=at)
        assert done <= at + 3, "it ends with the step, or with the beginning of an evaluation"
        run(cfg, folder, resume=True)
        assert Asked.trained == list(range(cfg.SOLVER.MAX_ITER)), "no iteration is lost or repeated"
        assert rows(folder) == expected, at
        final = torch.load(folder / "model_final.pth")["model"]
        assert all(torch.equal(final[name], value) for name, value in weights.items())
        shutil.rmtree(folder)
