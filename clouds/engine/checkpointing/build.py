"""Checkpointers that a config describes: of a training, and of a model that is only evaluated."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from clouds.config.classes import class_names
from clouds.config.settings import evaluated_sets, plain_settings
from clouds.d2 import CfgNode, comm
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.origin import check_test_classes
from clouds.engine.checkpointing.weights import frozen_keys, has_reloadable_backbone
from clouds.engine.run.record import shared_run
from clouds.errors import UserError

logger = logging.getLogger(__name__)


def build_checkpointer(cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> Checkpointer:
    """Build the checkpointer of a training, which writes to ``OUTPUT_DIR`` and resumes from there."""
    return Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        save_frozen=cfg.SOLVER.CHECKPOINT_FROZEN,
        reloadable=has_reloadable_backbone(model),
        keep=cfg.SOLVER.CHECKPOINTS_KEPT,
        period=checkpoint_period(cfg),
        classes=class_names(cfg.DATASETS.TRAIN) if cfg.DATASETS.TRAIN else (),
        run=shared_run(Path(cfg.OUTPUT_DIR)),
        settings=plain_settings(cfg),
        save_to_disk=comm.is_main_process(),
        **checkpointables,
    )


def checkpoint_period(cfg: CfgNode) -> int:
    """Return the iterations between two checkpoints, whatever the clock says; 0 = there are none before the end."""
    period: int = cfg.SOLVER.CHECKPOINT_PERIOD or 5 * cfg.TEST.EVAL_PERIOD
    return period


def load_for_inference(cfg: CfgNode, model: nn.Module, *, resume: bool = False) -> dict[str, Any]:
    """Load ``MODEL.WEIGHTS`` completely into a model; if it is empty, log a warning.

    Args:
        cfg: final config.
        model: model to change in place.
        resume: whether to load the newest checkpoint in ``OUTPUT_DIR`` instead, if there is one.

    Returns:
        The other entries of the file, its path or URL as ``weights``, "" for no file, and the digest of the frozen
        tower of the model as ``tower_sha256``.

    Raises:
        UserError: the weights cannot be used, or there is neither a checkpoint nor ``MODEL.WEIGHTS`` with `resume`.
    """
    check_test_classes(cfg, model)
    checkpointer = Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        reloadable=has_reloadable_backbone(model),
        complete=True,
        evaluated={name: class_names((name,)) for name in evaluated_sets(cfg) or cfg.DATASETS.TRAIN},
        run=shared_run(Path(cfg.OUTPUT_DIR)) if resume else None,
    )
    rest = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if resume and not checkpointer.resumed:
        missing = f"No checkpoint in {cfg.OUTPUT_DIR} belongs to its current run"
        if not cfg.MODEL.WEIGHTS:
            raise UserError(f"{missing}, and MODEL.WEIGHTS is empty: give the checkpoint to evaluate as MODEL.WEIGHTS.")
        logger.warning(f"{missing}: MODEL.WEIGHTS is loaded, {cfg.MODEL.WEIGHTS}")
    if not checkpointer.source:
        logger.warning("MODEL.WEIGHTS is empty: the head is untrained and its predictions are meaningless")
    state = model.state_dict()
    tower = checkpointer.origin.tower_digest({key: state[key] for key in frozen_keys(model)})
    return rest | {"weights": checkpointer.source, "tower_sha256": tower}
