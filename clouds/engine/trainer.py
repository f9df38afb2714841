"""The training step and its hooks."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from clouds.config.settings import evaluated_sets
from clouds.d2 import (
    CfgNode,
    CommonMetricPrinter,
    EventStorage,
    HookBase,
    TrainerBase,
    comm,
)
from clouds.d2.groups import wait_for_all
from clouds.data.datasets.catalog import dataset_names, load_dataset
from clouds.data.datasets.digest import dataset_digest
from clouds.engine import hooks, optimizer
from clouds.engine.accumulation import check_accumulation, divide
from clouds.engine.amp import Precision
from clouds.engine.checkpointing.build import checkpoint_period
from clouds.engine.checkpointing.origin import check_test_classes
from clouds.engine.checkpointing.weights import frozen_keys, trained_sha256
from clouds.engine.evaluation import Evaluation, report_selection
from clouds.engine.losses import describe_failure, mean_losses, stop_training
from clouds.engine.parallel import data_parallel, share_weights, unsynchronized
from clouds.engine.preflight import Preflight
from clouds.engine.run.evaluations import Evaluated
from clouds.engine.run.record import amend_record
from clouds.engine.setup import seed_everything
from clouds.engine.writers import build_writers
from clouds.errors import UserError
from clouds.modeling.structures import ImageDict
from clouds.utils.devices import cudnn_benchmark
from clouds.utils.signals import Stopped, stop_requested

logger = logging.getLogger(__name__)


class Trainer(Evaluation, TrainerBase):
    """Trains the model that a config describes. Every part has an overridable ``build_*`` method, see `Parts`.

    ``trainer = Trainer(cfg); trainer.resume_or_load(resume); trainer.train()`` with a frozen ``cfg`` that
    `clouds.engine.setup.default_setup` has prepared. The meta-architecture must keep its backbone, a
    `SegmentationBackbone`, as ``backbone`` and, for joint training, its head as ``sem_seg_head``.

    Attributes:
        model: the model, which is optimized, saved and evaluated.
        network: the model as it is called in training; with several processes, it averages the gradients.
        self_training: the hook that labels generated images; None without self-training.
        averaging: the hook that averages the weights; None without ``SOLVER.EMA_DECAY``.
        batches: batches of the loader; only during `train`.
        results: results of the last evaluation.
        digests: digest of the files of each data set; only in the main process, during `train`.
        preflight: the hook that stops a training which cannot end well.
        stopping: whether a signal has asked some process to stop, see `clouds.utils.signals`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.cfg = cfg
        self.seed = cfg.SEED
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.results: hooks.Results = {}
        self.history: hooks.History = {}
        self.digests: dict[str, str] = {}
        self.stopping = False
        # Data sets come first: a missing one, also a test set, is reported before the model is built or trained.
        self.data_loader = self.build_train_loader(cfg)
        self.check_test_sets(cfg)
        report_selection(cfg)
        # SAM precedes the model, so that its missing weights are reported before the model is built.
        self.self_training = self.build_self_training(cfg) if cfg.MODEL.CLOUDS.SAM.MINIBATCH else None
        self.model = self.build_model(cfg)
        check_test_classes(cfg, self.model)
        if self.self_training:
            hooks.check_student(self.model)
        self.optimizer = self.build_optimizer(cfg, self.model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.clip_gradients = optimizer.build_gradient_clipper(cfg)
        check_accumulation(cfg, self.model)
        self.network = data_parallel(self.model)
        self.precision = Precision.from_config(cfg, cfg.SOLVER.AMP.ENABLED)
        self.scaler = self.precision.build_scaler()
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "data": self.data_loader}
        if self.scaler.is_enabled():
            parts["scaler"] = self.scaler
        self.checkpointer = self.build_checkpointer(cfg, self.model, **parts)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = False) -> None:
        """Restore the run's newest checkpoint in ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS`` and start at iteration 0.

        Random numbers depend only on the seed and the iteration (in the model) or on the seed and the position in the
        data (in the loader). A resumed run thus needs no state of a random generator; on a CPU it ends bit for bit like
        an uninterrupted one.

        Args:
            resume: whether to restore the newest checkpoint, if there is one.

        Raises:
            UserError: the checkpoint does not fit, or the processes found different checkpoints.
        """
        rest = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and not self.checkpointer.resumed:
            logger.warning(
                f"No checkpoint in {self.cfg.OUTPUT_DIR} belongs to this run: it starts from its beginning, at "
                f"iteration 0 with the seed {self.seed}"
            )
        if self.checkpointer.resumed:
            if "iteration" not in rest:
                raise UserError(
                    f"{self.checkpointer.get_checkpoint_file()} holds weights but no training to resume: load it as "
                    "MODEL.WEIGHTS, without --resume."
                )
            self.start_iter = rest["iteration"] + 1
            self.history = rest.get("history", {})
            self.seed = rest.get("seed", self.seed)
            logger.info(f"Resumed at iteration {self.start_iter}, with the seed {self.seed} of the run")
        starts = sorted(set(comm.all_gather(self.start_iter)))
        if len(starts) > 1:
            raise UserError(
                f"The processes would resume at different iterations ({', '.join(map(str, starts))}): all machines "
                f"must see the same folder {self.cfg.OUTPUT_DIR} (OUTPUT_DIR)."
            )

    def train(self) -> hooks.Results:  # type: ignore[override]
        """Train from ``start_iter`` to ``SOLVER.MAX_ITER`` and return the results of the last evaluation.

        A run that has finished is evaluated; its record is completed if it was killed before the last evaluation.

        Raises:
            Stopped: a signal has asked to stop. The iterations so far are saved; a resumed run makes up for an
                evaluation that was stopped. Raised in all processes.
        """
        if comm.is_main_process():
            self.record_data()
        try:
            results = self._train()
        except Stopped:
            by, folder = stop_requested() or "a signal", self.cfg.OUTPUT_DIR
            sentence = (
                f"Stopped by {by}: the training is saved in {folder}, and the same command with --resume goes on."
            )
            logger.info(sentence)
            raise Stopped(sentence) from None
        if comm.is_main_process():
            self.record_weights()
        return results

    def record_data(self) -> None:
        """Add a digest of the files of each data set to ``run.json``."""
        names = dict.fromkeys([*dataset_names(self.cfg.DATASETS.TRAIN), *evaluated_sets(self.cfg)])
        self.digests = {name: dataset_digest(load_dataset(name)) for name in names}
        amend_record(Path(self.cfg.OUTPUT_DIR), data=self.digests)

    def record_weights(self) -> None:
        """Log the digest of the trained weights, and add it to ``run.json`` with that of the frozen tower."""
        digests = self.digests_of(self.model)
        amend_record(Path(self.cfg.OUTPUT_DIR), ending={"iterations": self.iter, **digests})
        digest = digests["weights_sha256"]
        logger.info(f"Weights after {self.iter} iterations with the seed {self.seed}: sha256 {digest}")

    def digests_of(self, model: nn.Module) -> dict[str, str]:
        """Return the digests of the trained weights and of the frozen tower, which is computed once.

        Args:
            model: the model, or its moving average.
        """
        state, frozen = model.state_dict(), frozen_keys(self.model)
        tower = self.checkpointer.origin.tower_digest({key: state[key] for key in frozen})
        return {"weights_sha256": trained_sha256(model, frozen), "tower_sha256": tower}

    def _train(self) -> hooks.Results:
        self.model.train()  # an adapter that no weights were loaded into may compute its start
        share_weights(self.model)
        if self.start_iter >= self.max_iter:
            logger.info(f"Nothing left to train: iteration {self.start_iter} of {self.max_iter} is reached")
            self.iter = self.max_iter = self.start_iter
            with EventStorage(self.start_iter) as self.storage:
                self.before_train()
                self.after_train()
            return self.results
        self.batches: Iterator[list[dict[str, Any]]] = iter(self.data_loader)
        cfg = self.cfg
        with cudnn_benchmark(cfg.CUDNN_BENCHMARK and cfg.INPUT.CROP.ENABLED and not cfg.DETERMINISTIC):
            super().train(self.start_iter, self.max_iter)
        del self.batches  # ends the loader's workers
        return self.results

    def run_step(self) -> None:
        """Run one iteration: data -> pseudo-labels -> losses and their gradients -> `update`.

        A loss that is not finite changes neither the weights nor the optimizer: its step is skipped on the device.

        Raises:
            NonFiniteLoss: a loss of some process is not finite, or the network raised `FloatingPointError`, which it
                must do in all processes or in none. Raised in all processes.
        """
        start = time.perf_counter()
        batch = next(self.batches)
        data_time = time.perf_counter() - start

        # The model's random numbers depend on seed and iteration only, not on what ran before, such as an evaluation.
        # Those of a single image, such as the points of its loss, depend on the seed that the loader gives it.
        seed_everything(self.seed, self.iter, comm.get_rank())
        self.optimizer.zero_grad()  # here, because memory is at its peak at the end of the forward pass
        batch = self.label(batch)
        try:
            losses = self.backpropagate(batch)
        except FloatingPointError as error:  # in all processes
            self.stop(batch, str(error))
        means = mean_losses(losses, stop=stop_requested() is not None)
        self.update(skip=1 - means.isfinite().all().float())
        # Read after everything is queued, so that a GPU computes on meanwhile.
        *numbers, stopping, scale = torch.cat([means, self.scaler.current(means)]).tolist()
        if not all(map(math.isfinite, numbers)):
            self.stop(batch, describe_failure(losses))
        try:
            self.scaler.check(scale)
        except FloatingPointError as error:  # in all processes, since they have equal gradients
            self.stop(batch, str(error))

        self.stopping = stopping > 0
        values = dict(zip(losses, numbers, strict=True))
        for name, value in {**values, "total_loss": sum(values.values()), "data_time": data_time}.items():
            self.storage.put_scalar(name, value)
        if self.self_training:
            self.self_training.wait()  # part of the measured time of a step

    def after_step(self) -> None:
        """Call the hooks, then stop if a signal has asked for it."""
        try:
            super().after_step()
        except Stopped:  # by the evaluation, in all processes
            self.stopping = True
        if self.stopping:
            self.checkpoints.save_now()
            wait_for_all()  # the main process saves
            raise Stopped

    def label(self, batch: list[ImageDict]) -> list[ImageDict]:
        """Return the batch with `instances` for each generated image.

        Raises:
            UserError: there are generated images, but no self-training.
        """
        if self.self_training:
            return self.self_training.label(batch)
        if any(x.get("is_generated", False) for x in batch):
            raise UserError("The batch has images without labels; set MODEL.CLOUDS.SAM.MINIBATCH True to learn them.")
        return batch

    def backpropagate(self, batch: list[ImageDict]) -> dict[str, Tensor]:
        """Compute the losses of the batch and their gradients, in ``SOLVER.ACCUMULATION`` parts (see `divide`).

        Returns:
            Scalars by name, without gradient; their mean over the processes is the loss of the whole batch.

        Raises:
            FloatingPointError: the network's output is not finite. Raised in all processes.
        """
        count = self.cfg.SOLVER.ACCUMULATION
        parts = divide(batch, count, self.model) if count > 1 else [batch]
        found: list[Tensor] = []
        for part in parts:
            with nullcontext() if part is parts[-1] else unsynchronized(self.network):
                with self.precision.autocast():
                    losses = self.network(part)
                values = torch.stack([*losses.values()])
                self.scaler.scale(values.sum()).backward()
            found.append(values.detach())
        return dict(zip(losses, torch.stack(found).sum(dim=0).unbind(), strict=True))

    def update(self, skip: Tensor) -> None:
        """Clip and apply the gradients. Under float16, a step whose gradient overflows is skipped.

        Args:
            skip: scalar float on the device of the losses; 1 = weights and optimizer stay as they are, otherwise 0.
        """
        self.scaler.unscale_(self.optimizer)
        self.clip_gradients(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self.scaler.step(self.optimizer, skip)
        self.scaler.update()

    def stop(self, batch: list[ImageDict], failure: str) -> NoReturn:
        """Raise the failures of all processes (see `stop_training`), which call this together."""
        remedy = "look at these images and labels, or lower SOLVER.BASE_LR"
        remedy += " or set SOLVER.AMP.ENABLED False" if self.scaler.is_enabled() else ""
        stop_training(batch, failure, iteration=self.iter, remedy=remedy)

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that evaluations use: its moving average with ``SOLVER.EMA_DECAY``."""
        return self.averaging.average.model if self.averaging else self.model

    def evaluate(self) -> hooks.Results:
        """Evaluate the current weights, or their moving average, on all test sets (see `test`)."""
        model = self.evaluated_model
        evaluated = None
        if comm.is_main_process():
            data = {name: self.digests[name] for name in evaluated_sets(self.cfg) if name in self.digests}
            evaluated = Evaluated(data, self.scheduler.last_epoch, weights=None, digests=self.digests_of(model))
        self.results = self.test(self.cfg, model, seed=self.seed, evaluated=evaluated)
        return self.results

    def build_hooks(self) -> list[HookBase]:
        """Build the hooks, in the order in which they run.

        The checkpoint precedes the evaluation, which may fail; the writers come last.
        """
        cfg = self.cfg
        writers = self.build_writers() if comm.is_main_process() else []
        recorders = [writer for writer in writers if not isinstance(writer, CommonMetricPrinter)]
        best = hooks.BestCheckpoint(self.checkpointer, cfg.TEST.SELECT_ON, lambda: self.evaluated_model)
        keep_best = best.update if cfg.TEST.SELECT_ON else None
        evaluation = hooks.PeriodicEvaluation(cfg.TEST.EVAL_PERIOD, self.evaluate, recorders, keep_best)
        record = hooks.PeriodicWriter(writers)
        metrics = Path(cfg.OUTPUT_DIR) / "metrics.json" if comm.is_main_process() else None
        self.averaging = hooks.build_weight_average(cfg, self.checkpointer)
        self.preflight = Preflight()
        self.checkpoints = hooks.PeriodicCheckpoint(
            self.checkpointer, checkpoint_period(cfg), cfg.SOLVER.CHECKPOINT_MINUTES
        )
        skips = cfg.DATALOADER.ON_ERROR == "skip"
        skipped = [hooks.SkippedImages(self.data_loader, Path(cfg.OUTPUT_DIR) / "skipped.jsonl")] if skips else []
        return [
            hooks.IterationTimer(),
            hooks.LearningRate(self.scheduler),
            *([self.averaging] if self.averaging else []),
            hooks.Continuation(metrics, evaluated_sets(cfg), evaluation, record),
            *self.build_self_training_hooks(),
            *skipped,
            self.preflight,
            self.checkpoints,
            evaluation,
            record,
        ]

    def build_self_training_hooks(self) -> list[HookBase]:
        """Build the hooks of joint training and add their state to the checkpoints."""
        if not self.self_training:
            return []
        monitor = hooks.build_pseudo_label_monitor(self.cfg, self.self_training)
        self.checkpointer.add_checkpointable("teacher", self.self_training.teacher)
        self.checkpointer.add_checkpointable("pseudo_label_counts", monitor)
        return [self.self_training, monitor]

    def build_writers(self) -> Sequence[Any]:
        """Build the writers: console, ``metrics.json``, TensorBoard and, if ``WANDB.PROJECT`` is set, W&B."""
        return build_writers(self.cfg, self.max_iter)
