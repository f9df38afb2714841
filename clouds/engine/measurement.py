"""Measurements of a dry run: the first iterations of a training, and one image of each test set."""

import copy
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode, HookBase, comm
from clouds.data.datasets.record import is_generated
from clouds.data.loading.loaders import TrainLoader
from clouds.data.loading.samplers import TrainingSampler
from clouds.engine import hooks
from clouds.engine.amp import Precision
from clouds.engine.evaluation import predictions_for
from clouds.engine.preflight import Preflight
from clouds.engine.trainer import Trainer
from clouds.utils.devices import cudnn_benchmark
from clouds.utils.signals import Stopped

_LEFT_OUT = (Preflight, hooks.Continuation, hooks.PeriodicCheckpoint, hooks.PeriodicEvaluation, hooks.PeriodicWriter)


@dataclass(frozen=True)
class Work:
    """Time that a run takes, measured in its first part.

    Attributes:
        iterations: iterations that are left.
        step_seconds: seconds of one iteration; 0 if there is none left.
        evaluations: number of evaluations.
        sets: measurements by test set.
    """

    iterations: int
    step_seconds: float
    evaluations: int
    sets: dict[str, "TestSet"]

    @property
    def evaluation_seconds(self) -> float:
        """Seconds of one evaluation of all test sets."""
        return sum(each.seconds for each in self.sets.values())

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return self.iterations * self.step_seconds + self.evaluations * self.evaluation_seconds


@dataclass(frozen=True)
class TestSet:
    """A test set in an evaluation.

    Attributes:
        images: number of its images, over all processes.
        seconds: seconds that they take.
        label_bytes: bytes of their label maps.
    """

    __test__ = False  # its name would make pytest collect it

    images: int
    seconds: float
    label_bytes: float


def first_steps(cfg: CfgNode, trainer: type[Trainer], *, resume: bool) -> tuple[Trainer, float]:
    """Do the first iteration of a training, which allocates memory, and the second, which is timed.

    Returns:
        The trainer, in the state after these iterations, and the seconds of the timed one. A training that has no
        iteration left does none.
    """
    stopwatch = Stopwatch()

    class DryTrainer(trainer):  # type: ignore[valid-type, misc]
        """The trainer without what lasts long or writes."""

        def build_hooks(self) -> list[HookBase]:
            return [each for each in super().build_hooks() if not isinstance(each, _LEFT_OUT)] + [stopwatch]

        def build_writers(self) -> Sequence[Any]:
            return []

        def record_data(self) -> None:
            """Leave out the digests, which belong to the record of a run."""

        def record_weights(self) -> None:
            """Leave out the digest, which is not that of the run."""

        def after_step(self) -> None:
            if self.stopping:  # in all processes; there is nothing to save
                raise Stopped
            super().after_step()

    training = DryTrainer(cfg)
    training.resume_or_load(resume)
    real_loader = training.data_loader
    training.data_loader = with_both_kinds(real_loader)
    # Where a step labels the next batch meanwhile, the second needs a third.
    ahead = training.self_training is not None and training.self_training.ahead
    training.max_iter = min(training.max_iter, training.start_iter + (3 if ahead else 2))
    if training.start_iter < training.max_iter:
        training.train()
    training.data_loader = real_loader
    return training, max(comm.all_gather(stopwatch.second))


class Stopwatch(HookBase):
    """Measures the second iteration, or the first if it is the only one. It must be the last hook."""

    def __init__(self) -> None:
        self.second = 0.0

    def before_step(self) -> None:
        self.start = time.perf_counter()

    def after_step(self) -> None:
        if self.trainer.iter <= self.trainer.start_iter + 1:
            self.second = time.perf_counter() - self.start


class InOrder(TrainingSampler):
    """Draws the images in their order."""

    def order(self, epoch: int) -> npt.NDArray[np.intp]:
        return np.arange(self.size)


def with_both_kinds(loader: TrainLoader) -> TrainLoader:
    """Return a loader whose batches have as many labelled as generated images in each process, if there are both."""
    kinds = [[each for each in loader.records if is_generated(each) == kind] for kind in (True, False)]
    if not all(kinds):
        return loader
    processes = loader.sampler.world_size
    endless = [itertools.cycle(kind) for kind in kinds]
    records = [next(endless[number // processes % 2]) for number in range(4 * loader.batch_size)]
    mixed = copy.copy(loader)
    mixed.records, mixed.position = records, 0
    mixed.sampler = InOrder(len(records), loader.seed, rank=loader.sampler.rank, world_size=processes)
    return mixed


def measure_sets(cfg: CfgNode, trainer: type[Trainer], model: nn.Module) -> dict[str, TestSet]:
    """Evaluate one image of each test set, twice: the first time allocates memory."""
    precision, device = Precision.from_config(cfg, cfg.TEST.AMP), torch.device(cfg.MODEL.DEVICE)
    found = {}
    was_training = model.training
    model.eval()
    for name in evaluated_sets(cfg):
        loader, evaluators = trainer.build_test_loader(cfg, name), trainer.build_evaluators(cfg, name)
        predicting = predictions_for(evaluators, model, cfg)
        seconds, written = 0.0, 0.0
        for batch in itertools.islice(loader, 1):
            for _ in range(2):
                start = time.perf_counter()
                with torch.no_grad(), precision.autocast(), cudnn_benchmark(False):
                    evaluators.process(batch, predicting(batch))
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds = time.perf_counter() - start
            folder = Path(cfg.OUTPUT_DIR) / "pseudo_labels" / name
            files = [
                path.stat().st_size for path in folder.rglob("*.png")
            ]  # two for an image, perhaps of all processes
            written = 2 * sum(files) / max(len(files), 1)
        shares = comm.all_gather((len(loader), seconds, written))
        images = sum(count for count, _, _ in shares)
        size = max(each for _, _, each in shares)
        found[name] = TestSet(images, max(count * each for count, each, _ in shares), images * size)
    model.train(was_training)
    return found
