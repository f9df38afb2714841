"""The training loop and the evaluation of all test sets."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import clouds.clouds  # noqa: F401  (puts the CLOUDS architecture into the registry)
from clouds.d2 import (
    META_ARCH_REGISTRY,
    CfgNode,
    CommonMetricPrinter,
    DatasetEvaluator,
    HookBase,
    JSONWriter,
    TensorboardXWriter,
    TrainerBase,
    build_model,
    comm,
    inference_on_dataset,
)
from clouds.data.loaders import TestLoader, TrainLoader, build_test_loader, build_train_loader
from clouds.engine import hooks, optimizer
from clouds.engine.checkpoint import Checkpointer
from clouds.engine.setup import code_version, seed_everything
from clouds.errors import UserError, check_name
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.evaluation.tables import format_table
from clouds.modeling.backbone.clip import has_own_weights

logger = logging.getLogger(__name__)


class NonFiniteLoss(UserError, FloatingPointError):
    """A loss became NaN or infinite."""


class Trainer(TrainerBase):
    """Trains what a config describes. Every part has an overridable ``build_*`` method.

    ``trainer = Trainer(cfg); trainer.resume_or_load(resume); trainer.train()`` with a frozen ``cfg`` that went
    through `clouds.engine.setup.default_setup`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.cfg = cfg
        self.seed = cfg.SEED
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.results: hooks.Results = {}
        # Data first: a missing set, also one for testing, is told now and not after the model or the training.
        self.data_loader = self.build_train_loader(cfg)
        self.check_test_sets(cfg)
        self.model = self.build_model(cfg)
        self.optimizer = self.build_optimizer(cfg, self.model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.clip_gradients = optimizer.build_gradient_clipper(cfg)
        self.checkpointer = self.build_checkpointer(
            cfg, self.model, optimizer=self.optimizer, scheduler=self.scheduler, data=self.data_loader
        )
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = False) -> None:
        """Continue from the newest checkpoint in ``OUTPUT_DIR`` if asked to and there is one; else load
        ``MODEL.WEIGHTS`` (if any) and begin at iteration 0."""
        continues = resume and self.checkpointer.has_checkpoint()
        if resume and not continues:
            logger.warning(f"No checkpoint in {self.cfg.OUTPUT_DIR} to resume from: starting at iteration 0")
        rest = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=continues)
        if continues:
            self.start_iter = rest["iteration"] + 1
            self.seed = rest.get("seed", self.seed)
            logger.info(f"Resumed at iteration {self.start_iter}, with the run's own seed {self.seed}")

    def train(self) -> hooks.Results:  # type: ignore[override]
        """Train from ``start_iter`` to ``SOLVER.MAX_ITER``; returns the last evaluation (see `test`)."""
        if self.start_iter >= self.max_iter:
            logger.info(f"Nothing left to train: iteration {self.start_iter} of {self.max_iter} is reached")
            return self.evaluate()
        self.model.train()
        self._batches: Iterator[list[dict[str, Any]]] = iter(self.data_loader)
        super().train(self.start_iter, self.max_iter)
        del self._batches  # ends the loader's workers
        return self.results

    def run_step(self) -> None:
        """data -> losses -> gradients -> clip -> update."""
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        # The model's draws follow from seed and iteration alone, whatever ran before (an evaluation, a loader's start).
        seed_everything(self.seed, self.iter)
        try:
            losses = self.model(batch)
        except FloatingPointError as error:
            raise self.non_finite(str(error), batch) from error
        values = self.finite_values(losses, batch)

        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.clip_gradients(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self.optimizer.step()

        for name, value in {**values, "total_loss": sum(values.values()), "data_time": data_time}.items():
            self.storage.put_scalar(name, value)

    def finite_values(self, losses: dict[str, Tensor], batch: list[dict[str, Any]]) -> dict[str, float]:
        """The losses as numbers (one transfer from the device); raises `NonFiniteLoss` if one is NaN or infinite."""
        values = dict(zip(losses, torch.stack([loss.detach() for loss in losses.values()]).tolist(), strict=True))
        bad = {name: value for name, value in values.items() if not abs(value) < float("inf")}
        if bad:
            raise self.non_finite(", ".join(f"{name} = {value}" for name, value in bad.items()), batch)
        return values

    def non_finite(self, what: str, batch: list[dict[str, Any]]) -> NonFiniteLoss:
        """The error that ends training, with the images it happened on."""
        files = ", ".join(str(sample["file_name"]) for sample in batch)
        return NonFiniteLoss(
            f"Training stopped at iteration {self.iter}: {what} on {files}; "
            "look at these images and labels, or lower SOLVER.BASE_LR."
        )

    def evaluate(self) -> hooks.Results:
        """`test` of the model as it is."""
        self.results = self.test(self.cfg, self.model, seed=self.seed)
        return self.results

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, *, seed: int | None = None) -> hooks.Results:
        """Evaluate every set of ``DATASETS.TEST`` and log the one table.

        Args:
            cfg: final config.
            model: answers test batches with scores; its training mode is left as it was.
            seed: what the table names as the model's seed; default ``cfg.SEED``.

        Returns:
            ``{dataset: {"sem_seg": {metric: percent}}}`` in the order of the config.
        """
        results: hooks.Results = {}
        counts: dict[str, int] = {}
        for name in cfg.DATASETS.TEST:
            loader = cls.build_test_loader(cfg, name)
            counts[name] = sum(comm.all_gather(len(loader)))
            results[name] = inference_on_dataset(model, loader, cls.build_evaluator(cfg, name))
        if not results:
            logger.warning("DATASETS.TEST is empty: nothing is evaluated")
        elif comm.is_main_process():
            seed = cfg.SEED if seed is None else seed
            logger.info("Results\n" + format_table(results, cfg.TEST.PROTOCOL, code_version(), seed, counts))
        return results

    @classmethod
    def test_weights(cls, cfg: CfgNode, *, resume: bool = False) -> hooks.Results:
        """`test` of ``MODEL.WEIGHTS``, or with ``resume`` of the newest checkpoint in ``OUTPUT_DIR``."""
        cls.check_test_sets(cfg)
        model = cls.build_model(cfg)
        rest = load_for_inference(cfg, model, resume=resume)
        return cls.test(cfg, model, seed=rest.get("seed"))

    @classmethod
    def check_test_sets(cls, cfg: CfgNode) -> None:
        """`UserError` if a set of ``DATASETS.TEST`` is unknown or its files are missing."""
        for name in cfg.DATASETS.TEST:
            cls.build_test_loader(cfg, name)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        check_name("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, dict(META_ARCH_REGISTRY))
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return optimizer.build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer_: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return optimizer.build_lr_scheduler(cfg, optimizer_)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> TestLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return SemSegEvaluator(dataset_name)

    @classmethod
    def build_checkpointer(cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> Checkpointer:
        return Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            save_frozen=cfg.SOLVER.CHECKPOINT_FROZEN,
            random_tower=tower_is_random(cfg),
            save_to_disk=comm.is_main_process(),
            **checkpointables,
        )

    def build_hooks(self) -> list[HookBase]:
        """In the order of their run: the checkpoint comes before the evaluation, which may fail; writers last."""
        cfg = self.cfg
        checkpoint_period = cfg.SOLVER.CHECKPOINT_PERIOD or 5 * cfg.TEST.EVAL_PERIOD
        writers = self.build_writers() if comm.is_main_process() else []
        recorders = [writer for writer in writers if not isinstance(writer, CommonMetricPrinter)]
        return [
            hooks.IterationTimer(),
            hooks.LearningRate(self.scheduler),
            hooks.PeriodicCheckpoint(self.checkpointer, checkpoint_period),
            hooks.PeriodicEvaluation(cfg.TEST.EVAL_PERIOD, self.evaluate, recorders),
            hooks.PeriodicWriter(writers),
        ]

    def build_writers(self) -> Sequence[Any]:
        """Console line with ETA, ``metrics.json``, TensorBoard."""
        output = self.cfg.OUTPUT_DIR
        return [CommonMetricPrinter(self.max_iter), JSONWriter(f"{output}/metrics.json"), TensorboardXWriter(output)]


def load_for_inference(cfg: CfgNode, model: nn.Module, *, resume: bool = False) -> dict[str, Any]:
    """Load ``MODEL.WEIGHTS`` (or with ``resume`` the newest checkpoint in ``OUTPUT_DIR``) completely into ``model``.

    Returns what else the file holds. Empty ``MODEL.WEIGHTS`` leave the head untrained, which is said in a warning.
    """
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, random_tower=tower_is_random(cfg), complete=True)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        logger.warning("MODEL.WEIGHTS is empty: the head is untrained and its predictions mean nothing")
        return {}
    return checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)


def tower_is_random(cfg: CfgNode) -> bool:
    """Whether the CLIP towers are drawn at random, so that no file but a checkpoint of ours can bring them back."""
    clip = cfg.MODEL.CLOUDS
    return not clip.CLIP_PRETRAINED_WEIGHTS and not has_own_weights(clip.CLIP_MODEL_NAME)
