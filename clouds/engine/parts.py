"""Parts of a run that a config describes: data sets, model, self-training, optimizer, evaluators, checkpointer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import clouds.clouds  # noqa: F401  (registers the CLOUDS architecture)
from clouds.config.classes import class_names
from clouds.config.settings import evaluated_sets
from clouds.d2 import META_ARCH_REGISTRY, CfgNode, DatasetEvaluator
from clouds.data.datasets.catalog import dataset_names, domains, load_dataset
from clouds.data.loading.loaders import TestLoader, TrainLoader, build_test_loader, build_train_loader
from clouds.data.protocols import build_protocols, check_domains, means_of, protocol_names
from clouds.engine import hooks, optimizer
from clouds.engine.checkpointing.build import build_checkpointer
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.errors import check_name
from clouds.evaluation.by_protocol import ByProtocol
from clouds.evaluation.sem_seg import SemSegEvaluator
from clouds.modeling.linear import onednn_is_faster, use_onednn
from clouds.self_training.sam import Sam, build_sam


class Parts:
    """Builds the parts of a run, each by a method that a subclass can override."""

    @classmethod
    def check_test_sets(cls, cfg: CfgNode) -> None:
        """Raise `UserError` if a set of `evaluated_sets` or its files are missing, or a protocol names no data set."""
        known = domains()
        for protocol in build_protocols(cfg):
            check_domains(protocol, known)
        for name in evaluated_sets(cfg):
            cls.build_test_loader(cfg, name)
            main, *_ = cls.build_evaluators(cfg, name).evaluators.values()
            if isinstance(main, SemSegEvaluator):
                main.check_labels()

    @classmethod
    def build_model(cls, cfg: CfgNode, **arguments: Any) -> nn.Module:
        """Build the meta-architecture ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``.

        Args:
            cfg: config with a resolved device.
            arguments: arguments of the architecture that replace those of the config.
        """
        check_name("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, dict(META_ARCH_REGISTRY))
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg, **arguments)
        model.to(torch.device(cfg.MODEL.DEVICE))
        if cfg.MODEL.DEVICE == "cpu" and onednn_is_faster():
            use_onednn(model)
        return model

    @classmethod
    def build_self_training(cls, cfg: CfgNode) -> hooks.SelfTrainingHook:
        """Build the hook that labels generated images, with its teacher and SAM. Evaluation does not build it."""
        return hooks.build_self_training_hook(cfg, cls.build_sam(cfg) if cfg.MODEL.CLOUDS.SAM.ENABLED else None)

    @classmethod
    def build_sam(cls, cfg: CfgNode) -> Sam:
        """Build the SAM that refines pseudo-labels."""
        return build_sam(cfg, torch.device(cfg.MODEL.DEVICE))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of ``SOLVER.OPTIMIZER``."""
        return optimizer.build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer_: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the scheduler of ``SOLVER.LR_SCHEDULER_NAME``."""
        return optimizer.build_lr_scheduler(cfg, optimizer_)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """Build the loader of ``DATASETS.TRAIN``."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> TestLoader:
        """Build the loader of a test set."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluators(cls, cfg: CfgNode, dataset_name: str) -> ByProtocol:
        """Build the evaluators of a test set, one for each protocol, each by `build_evaluator`."""
        configs = zip(build_protocols(cfg), _one_each(cfg), strict=True)
        return ByProtocol({protocol.name: cls.build_evaluator(own, dataset_name) for protocol, own in configs})

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator of a test set by the first protocol of a config.

        It also writes label maps if ``MODEL.SAVE_PSEUDO_LABELS`` is set, and keeps ``TEST.SHOWN_IMAGES`` images.
        """
        labels = Path(cfg.OUTPUT_DIR) / "pseudo_labels" / dataset_name
        protocol = build_protocols(cfg)[0]
        return SemSegEvaluator(
            dataset_name,
            boundary=cfg.TEST.BOUNDARY_IOU,
            label_folder=labels if cfg.MODEL.SAVE_PSEUDO_LABELS else None,
            absent=protocol.absent,
            means=means_of(protocol, class_names((dataset_name,)), dataset_names(cfg.DATASETS.TRAIN)),
            shown=_shown_images(cfg, dataset_name),
        )

    @classmethod
    def build_checkpointer(cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> Checkpointer:
        """Build the checkpointer of this training."""
        return build_checkpointer(cfg, model, **checkpointables)


def _shown_images(cfg: CfgNode, dataset_name: str) -> list[str]:
    """Return the ids of ``TEST.SHOWN_IMAGES`` images that are spread evenly over a test set."""
    count = cfg.TEST.SHOWN_IMAGES
    records = load_dataset(dataset_name) if count else []
    places = dict.fromkeys((2 * number + 1) * len(records) // (2 * count) for number in range(count))
    return [records[place]["image_id"] for place in places]


def _one_each(cfg: CfgNode) -> Iterator[CfgNode]:
    """Yield a config with each of the protocols alone. Only the first one writes label maps and shows images."""
    for number, name in enumerate(protocol_names(cfg)):
        own = cfg.clone()
        own.defrost()
        own.TEST.PROTOCOLS = (name,)
        own.MODEL.SAVE_PSEUDO_LABELS = cfg.MODEL.SAVE_PSEUDO_LABELS and number == 0
        own.TEST.SHOWN_IMAGES = cfg.TEST.SHOWN_IMAGES if number == 0 else 0
        own.freeze()
        yield own
