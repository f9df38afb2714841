"""The training loop and the evaluation of all test sets."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
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
from clouds.data.classes import SYNTHIA_MEANS
from clouds.data.datasets.catalog import dataset_names
from clouds.data.loading.loaders import TestLoader, TrainLoader, build_test_loader, build_train_loader
from clouds.engine import hooks, optimizer
from clouds.engine.amp import Precision
from clouds.engine.checkpoint import Checkpointer, build_checkpointer, load_for_inference
from clouds.engine.parallel import data_parallel
from clouds.engine.setup import code_version, seed_everything
from clouds.engine.writers import build_wandb_writer
from clouds.errors import UserError, check_name
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.evaluation.tables import Provenance, format_table
from clouds.modeling.distributed import gather_losses
from clouds.modeling.structures import ImageDict
from clouds.self_training.sam import Sam, build_sam

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
        self.history: hooks.History = {}
        # Data first: a missing set, also one for testing, is told now and not after the model or the training.
        self.data_loader = self.build_train_loader(cfg)
        self.check_test_sets(cfg)
        # SAM before the model: its missing weights are reported before the model is built.
        self.self_training = self.build_self_training(cfg) if cfg.MODEL.CLOUDS.SAM.MINIBATCH else None
        self.model = self.build_model(cfg)
        self.optimizer = self.build_optimizer(cfg, self.model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.clip_gradients = optimizer.build_gradient_clipper(cfg)
        self.network = data_parallel(self.model)
        self.precision = Precision.from_config(cfg, cfg.SOLVER.AMP.ENABLED)
        self.scaler = self.precision.build_scaler()
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "data": self.data_loader}
        if self.scaler.is_enabled():
            parts["scaler"] = self.scaler
        self.checkpointer = self.build_checkpointer(cfg, self.model, **parts)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = False) -> None:
        """Continue from the newest checkpoint in ``OUTPUT_DIR`` if asked to and there is one; else load
        ``MODEL.WEIGHTS`` (if any) and begin at iteration 0.

        What is random follows from the seed and the iteration (in the model) or the draw (in the data) alone, so that a
        continued run needs no generator's state to end, on a CPU bit for bit, where an uninterrupted one does.
        """
        continues = resume and self.checkpointer.has_checkpoint()
        if resume and not continues:
            logger.warning(f"No checkpoint in {self.cfg.OUTPUT_DIR} to resume from: starting at iteration 0")
        rest = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=continues)
        if continues:
            if "iteration" not in rest:
                raise UserError(
                    f"{self.checkpointer.get_checkpoint_file()} holds weights but no training to resume: load it as "
                    "MODEL.WEIGHTS, without --resume."
                )
            self.start_iter = rest["iteration"] + 1
            self.history = rest.get("history", {})
            self.seed = rest.get("seed", self.seed)
            logger.info(f"Resumed at iteration {self.start_iter}, with the run's own seed {self.seed}")
        starts = sorted(set(comm.all_gather(self.start_iter)))
        if len(starts) > 1:
            raise UserError(
                f"The processes would go on at different iterations ({', '.join(map(str, starts))}): all machines "
                f"must see the same folder {self.cfg.OUTPUT_DIR} (OUTPUT_DIR)."
            )

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
        """data -> pseudo-labels -> losses -> `update`."""
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        # The model's draws follow from seed and iteration alone, whatever ran before (an evaluation, a loader's start);
        # those for a single image, the points of its loss, from the seed that the loader gives it.
        seed_everything(self.seed, self.iter, comm.get_rank())
        batch = self.label(batch)
        values, failure = {}, ""
        try:
            with self.precision.autocast():
                losses = self.network(batch)
            values = as_numbers(losses)
        except FloatingPointError as error:
            failure = str(error)
        values = self.whole_batch(batch, values, failure)
        try:
            self.update(sum(losses.values()))
        except FloatingPointError as error:  # in all processes alike, which have the same gradients
            self.whole_batch(batch, values, str(error))

        for name, value in {**values, "total_loss": sum(values.values()), "data_time": data_time}.items():
            self.storage.put_scalar(name, value)

    def label(self, batch: list[ImageDict]) -> list[ImageDict]:
        """Return the batch with `instances` for each generated image.

        Raises:
            UserError: there are generated images, but no self-training.
        """
        if self.self_training:
            # A separate context, so that autocast does not cache weights that were cast without a gradient.
            with self.precision.autocast():
                return self.self_training.label(batch)
        if any(x.get("is_generated", False) for x in batch):
            raise UserError("The batch has images without labels; set MODEL.CLOUDS.SAM.MINIBATCH True to learn them.")
        return batch

    def update(self, loss: Tensor) -> None:
        """gradients -> clip -> step. Under float16 a step whose gradient overflows is left out, which is no error."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.clip_gradients(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def whole_batch(self, batch: list[dict[str, Any]], values: dict[str, float], failure: str = "") -> dict[str, float]:
        """Return the losses of the whole batch: their mean over the processes, which must call this together.

        Args:
            batch: this process's share of the batch.
            values: losses of this share; NaN or an infinite value is a failure.
            failure: description of another failure in this process.

        Raises:
            NonFiniteLoss: a failure in some process; raised in all processes, with the images of that process.
        """
        bad = failure or ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
        files = ", ".join(str(sample["file_name"]) for sample in batch)
        means, failures = gather_losses(values, f"{bad} on {files}" if bad else "")
        if failures:
            instead = " or set SOLVER.AMP.ENABLED False" if self.scaler.is_enabled() else ""
            raise NonFiniteLoss(
                f"Training stopped at iteration {self.iter}: {'; '.join(failures)}; "
                f"look at these images and labels, or lower SOLVER.BASE_LR{instead}."
            )
        return means

    def evaluate(self) -> hooks.Results:
        """`test` of the model as it is."""
        self.results = self.test(self.cfg, self.model, seed=self.seed)
        return self.results

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, *, seed: int | None = None) -> hooks.Results:
        """Evaluate every set of ``DATASETS.TEST`` and log the one table.

        In full precision unless ``TEST.AMP`` says otherwise, also between the steps of a mixed-precision training: the
        score of a checkpoint is to be the same wherever it is measured.

        Args:
            cfg: final config.
            model: answers test batches with scores; its training mode is left as it was.
            seed: what the table names as the model's seed; default ``cfg.SEED``.

        Returns:
            ``{dataset: {"sem_seg": {metric: percent}}}`` in the order of the config.
        """
        results: hooks.Results = {}
        counts: dict[str, int] = {}
        precision = Precision.from_config(cfg, cfg.TEST.AMP)
        for name in cfg.DATASETS.TEST:
            loader = cls.build_test_loader(cfg, name)
            counts[name] = sum(comm.all_gather(len(loader)))
            with precision.autocast():
                results[name] = inference_on_dataset(model, loader, cls.build_evaluator(cfg, name))
        if not results:
            logger.warning("DATASETS.TEST is empty: nothing is evaluated")
        elif comm.is_main_process():
            seed = cfg.SEED if seed is None else seed
            source = Provenance(cfg.TEST.PROTOCOL, code_version(), seed, counts)
            logger.info("Results\n" + format_table(results, source))
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
    def build_self_training(cls, cfg: CfgNode) -> hooks.SelfTrainingHook:
        """Build the hook that labels generated images, with its teacher and SAM. Evaluation does not build it."""
        return hooks.build_self_training_hook(cfg, cls.build_sam(cfg) if cfg.MODEL.CLOUDS.SAM.ENABLED else None)

    @classmethod
    def build_sam(cls, cfg: CfgNode) -> Sam:
        return build_sam(cfg, torch.device(cfg.MODEL.DEVICE))

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
        labels = Path(cfg.OUTPUT_DIR) / "pseudo_labels" / dataset_name
        return SemSegEvaluator(
            dataset_name,
            boundary=cfg.TEST.BOUNDARY_IOU,
            label_folder=labels if cfg.MODEL.SAVE_PSEUDO_LABELS else None,
            subsets=SYNTHIA_MEANS if "synthia" in dataset_names(cfg.DATASETS.TRAIN) else None,
        )

    @classmethod
    def build_checkpointer(cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> Checkpointer:
        return build_checkpointer(cfg, model, **checkpointables)

    def build_hooks(self) -> list[HookBase]:
        """In the order of their run: the checkpoint comes before the evaluation, which may fail; writers last."""
        cfg = self.cfg
        checkpoint_period = cfg.SOLVER.CHECKPOINT_PERIOD or 5 * cfg.TEST.EVAL_PERIOD
        writers = self.build_writers() if comm.is_main_process() else []
        recorders = [writer for writer in writers if not isinstance(writer, CommonMetricPrinter)]
        evaluation = hooks.PeriodicEvaluation(cfg.TEST.EVAL_PERIOD, self.evaluate, recorders)
        record = hooks.PeriodicWriter(writers)
        metrics = Path(cfg.OUTPUT_DIR) / "metrics.json" if comm.is_main_process() else None
        return [
            hooks.IterationTimer(),
            hooks.LearningRate(self.scheduler),
            hooks.Continuation(metrics, evaluation, record),
            *self.build_self_training_hooks(),
            hooks.PeriodicCheckpoint(self.checkpointer, checkpoint_period),
            evaluation,
            record,
        ]

    def build_self_training_hooks(self) -> list[HookBase]:
        """Return the hooks of joint training, and let checkpoints hold their state."""
        if not self.self_training:
            return []
        monitor = hooks.build_pseudo_label_monitor(self.cfg, self.self_training)
        self.checkpointer.add_checkpointable("teacher", self.self_training.teacher)
        self.checkpointer.add_checkpointable("pseudo_label_counts", monitor)
        return [self.self_training, monitor]

    def build_writers(self) -> Sequence[Any]:
        """Console line with ETA, ``metrics.json``, TensorBoard, and W&B where a project of it is named."""
        output = self.cfg.OUTPUT_DIR
        writers = [CommonMetricPrinter(self.max_iter), JSONWriter(f"{output}/metrics.json"), TensorboardXWriter(output)]
        return [*writers, build_wandb_writer(self.cfg)] if self.cfg.WANDB.PROJECT else writers


def as_numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    """The values of scalar losses, in one transfer from the device."""
    return dict(zip(losses, torch.stack([loss.detach() for loss in losses.values()]).tolist(), strict=True))
