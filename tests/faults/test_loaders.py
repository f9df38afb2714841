"""Workers of a real command: killed with their parent, stopped at its end, killed while it trains jointly."""

import itertools
import multiprocessing
import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from clouds.config import load_config
from clouds.data.loading.loaders import TrainLoader
from clouds.data.loading.samplers import TrainingSampler
from clouds.engine.setup import default_setup
from tests.engine.joint import JOINT, JOINT_MODULE, JointTrainer, write_joint_images
from tests.engine.test_end_to_end import write_config
from tests.faults.processes import Line, Processes

pytestmark = pytest.mark.slow

RECORDS = [{"file_name": f"{number}.png"} for number in range(8)]


def tensors(record: dict, rng: object) -> dict:
    return {**record, "image": torch.zeros(3, 8, 8)}


def hang(record: dict, rng: object) -> dict:
    time.sleep(600)
    return record


def stop_a_worker_and_fail(argv: list[str]) -> int:
    batches = iter(TrainLoader(RECORDS, tensors, TrainingSampler(8, 0), batch_size=1, num_workers=2))
    next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGSTOP)
    sys.exit("ends with its workers stopped")


def wait_for_a_worker(argv: list[str]) -> int:
    batches = iter(TrainLoader(RECORDS, hang, TrainingSampler(8, 0), batch_size=1, num_workers=2))
    print("waits")
    next(batches)
    return 0


def test_a_command_ends_though_its_workers_are_stopped(processes: Processes) -> None:
    outcome = processes.start(stop_a_worker_and_fail).finish()
    assert (outcome.code, outcome.orphans) == (1, []), outcome.output
    assert "ends with its workers stopped" in outcome.output


def test_workers_end_with_a_parent_that_is_killed(processes: Processes) -> None:
    started = processes.start(wait_for_a_worker)
    assert started.wait_for(Line("waits"))
    while len(started.processes()) < 3:
        time.sleep(0.02)
    started.send(signal.SIGKILL)
    outcome = started.finish()
    assert (outcome.code, outcome.orphans) == (-signal.SIGKILL, [])


def train_jointly(argv: list[str]) -> int:
    """Train; a worker gets the signal of the last argument, if there is one, after the second step."""
    config, out, *number = argv

    class Disturbed(JointTrainer):
        def after_step(self) -> None:
            super().after_step()
            if number and self.iter == 1:
                (worker,) = multiprocessing.active_children()
                os.kill(worker.pid or 0, int(number[0]))

    words = [
        *JOINT,
        "INPUT.CROP_SIZE",
        (64, 64),
        *("SOLVER.MAX_ITER", 7, "TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 1, "OUTPUT_DIR", out),
    ]
    cfg = load_config(config, words)
    default_setup(cfg, Namespace(resume=False))
    trainer = Disturbed(cfg)
    trainer.self_training.ahead = True
    trainer.data_loader.restarts["patience"] = 3.0
    trainer.resume_or_load()
    trainer.train()
    return 0


def test_a_joint_training_labelled_ahead_goes_on(processes: Processes, tmp_path: Path) -> None:
    write_joint_images(tmp_path / "data", train=6, val=1)
    write_config(tmp_path / "c.yaml", backbone="CLIP", plugin="plugin_for_loaders", module=JOINT_MODULE)
    environment = {"DETECTRON2_DATASETS": str(tmp_path / "data"), "PYTHONPATH": str(tmp_path)}
    runs: dict[str, dict] = {}
    for name, numbers in {"undisturbed": [], "killed": [signal.SIGKILL], "stopped": [signal.SIGSTOP]}.items():
        argv = [str(tmp_path / "c.yaml"), str(tmp_path / name), *map(int, numbers)]
        outcome = processes.run(train_jointly, argv, environment=environment)
        assert (outcome.code, outcome.orphans) == (0, []), outcome.output
        assert outcome.output.count("all are started again, once") == len(numbers)
        content = torch.load(tmp_path / name / "model_final.pth")
        runs[name] = {**content["model"], **{f"teacher.{k}": v for k, v in content["teacher"].items()}}
    assert len(runs["undisturbed"]) > 10
    for name, key in itertools.product(("killed", "stopped"), runs["undisturbed"]):
        assert torch.equal(runs[name][key], runs["undisturbed"][key]), (name, key)
