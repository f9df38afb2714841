"""Relations between config keys, checked once when a config is read."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clouds.config.keys import value_of
from clouds.errors import UserError, check_name

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

logger = logging.getLogger(__name__)


def check_relations(cfg: CfgNode) -> None:
    """Check the relations between values that are each in their range.

    Raises:
        UserError: two values do not fit together. The message names both keys.
    """
    _check_decoders(cfg)
    _check_sampling(cfg)
    _check_windows(cfg)


def _check_decoders(cfg: CfgNode) -> None:
    former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
    if head.NAME == head.PIXEL_DECODER_NAME:  # both are looked up in the registry of heads
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NAME and MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME are both {head.NAME!r}: name a head, "
            "such as CLOUDSHead, and a pixel decoder, such as MSDeformAttnPixelDecoder."
        )
    if former.HIDDEN_DIM % former.NHEADS:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM is {former.HIDDEN_DIM}; it must be a multiple of MODEL.MASK_FORMER.NHEADS, "
            f"{former.NHEADS}."
        )
    if head.PIXEL_DECODER_NAME == "MSDeformAttnPixelDecoder":
        key = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"
        for name in head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES:
            check_name(key, name, head.IN_FEATURES)
        heads = head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
        factor = math.lcm(32, heads)  # a group norm of this decoder has 32 groups
        if head.CONVS_DIM % factor:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {head.CONVS_DIM}; with the 32 groups of a norm and {heads} heads "
                f"(DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS) it must be a multiple of {factor}."
            )


def _check_sampling(cfg: CfgNode) -> None:
    source, target = cfg.DATASETS.SOURCE_FACTOR, cfg.DATASETS.TARGET_FACTOR
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler" and max(source, target) < 1:
        raise UserError(
            f"DATASETS.SOURCE_FACTOR is {source} and DATASETS.TARGET_FACTOR {target}; with "
            f"{cfg.DATALOADER.SAMPLER_TRAIN} one of them must be at least 1: multiply both, only their ratio matters."
        )


def _check_windows(cfg: CfgNode) -> None:
    if cfg.TEST.STRIDE > cfg.TEST.WINDOW > 0:
        raise UserError(
            f"TEST.STRIDE is {cfg.TEST.STRIDE}, more than TEST.WINDOW, {cfg.TEST.WINDOW}, which leaves gaps between "
            "windows: lower it, or set it to 0 for windows side by side."
        )


def report_without_effect(cfg: CfgNode, keys: Iterable[str]) -> None:
    """Log one line that names keys whose values cannot have an effect in a config.

    A value of False, 0 or "" is not named: it switches off what is off.

    Args:
        cfg: config that was checked.
        keys: dotted keys that were set on purpose, such as those on a command line.
    """
    reasons = _reasons(cfg)
    found = [
        f"{key} ({reason})"
        for key in keys
        for name, reason in reasons.items()
        if f"{key}.".startswith(f"{name}.") and value_of(cfg, key)
    ]
    if found:
        logger.warning("Config keys on the command line that have no effect in this config: %s", "; ".join(found))


def _reasons(cfg: CfgNode) -> dict[str, str]:
    """Return the keys and sections that have no effect in a config, with the reason.

    Keys of a backbone or a sampler that is not of this package are left to it.
    """
    clouds, sam, data, solver = cfg.MODEL.CLOUDS, cfg.MODEL.CLOUDS.SAM, cfg.DATALOADER, cfg.SOLVER
    backbone = cfg.MODEL.BACKBONE.NAME
    of_clip, of_timm = backbone in ("CLIP", "TrainableCLIP"), backbone in ("TimmTower", "TrainableTimmTower")
    name = clouds.CLIP_MODEL_NAME
    own_weights = of_clip and (name.startswith(("local-dir:", "hf-hub:")) or Path(name).is_dir())
    no_ensemble = not clouds.GEOMETRIC_ENSEMBLE and not clouds.GEOMETRIC_ENSEMBLE_EMA
    adapter = cfg.MODEL.ADAPTER
    table = (
        (of_clip, f"MODEL.BACKBONE.NAME is {backbone}", "MODEL.BACKBONE.TIMM"),
        (
            of_timm,
            f"MODEL.BACKBONE.NAME is {backbone}",
            *("MODEL.CLOUDS.CLIP_MODEL_NAME", "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", "MODEL.CLOUDS.EMBED_DIM"),
        ),
        (
            backbone in ("CLIP", "TimmTower") and not adapter.NAME,
            "the backbone is frozen",
            "MODEL.BACKBONE.CHECKPOINTING",
        ),
        (own_weights, "MODEL.CLOUDS.CLIP_MODEL_NAME has its own weights", "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS"),
        (
            not adapter.NAME,
            "MODEL.ADAPTER.NAME is empty",
            *(f"MODEL.ADAPTER.{key}" for key in adapter if key != "NAME"),
            *("SOLVER.ADAPTER_MULTIPLIER", "SOLVER.ADAPTER_DECAY"),
        ),
        (adapter.NAME in ("SoMA", "Rein"), "only LoRA has it", "MODEL.ADAPTER.ALPHA"),
        (adapter.NAME == "Rein", "Rein adapts whole blocks", "MODEL.ADAPTER.PATTERNS"),
        (
            adapter.NAME in ("LoRA", "SoMA"),
            "only Rein has tokens",
            "MODEL.ADAPTER.TOKENS",
            "MODEL.ADAPTER.LINK_QUERIES",
        ),
        (bool(adapter.NAME), "MODEL.ADAPTER.NAME is set: the tower is not trained", "SOLVER.BACKBONE_MULTIPLIER"),
        (
            no_ensemble,
            "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE is False",
            *("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA", "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_BETA"),
            "MODEL.CLOUDS.ENSEMBLE_ON_VALID_MASK",
        ),
        (
            not sam.MINIBATCH,
            "MODEL.CLOUDS.SAM.MINIBATCH is False",
            *("MODEL.CLOUDS.SAM.ENABLED", "MODEL.CLOUDS.SAM.ALPHA_EMA", "MODEL.CLOUDS.ITERATION_UPDATE"),
            *("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_EMA", "MODEL.CLOUDS.PANEL_PERIOD", "INPUT.PL_THRESHOLD"),
        ),
        (
            not (sam.MINIBATCH and sam.ENABLED),
            "SAM is not used: MODEL.CLOUDS.SAM.ENABLED and MINIBATCH are not both True",
            *(f"MODEL.CLOUDS.SAM.{key}" for key in sam if key not in ("MINIBATCH", "ENABLED", "ALPHA_EMA")),
        ),
        (
            sam.PROMPTS == "text",
            "MODEL.CLOUDS.SAM.PROMPTS is text",
            *(f"MODEL.CLOUDS.SAM.{key}" for key in ("NUM_POINTS", "SELECTION_MODE", "EROSION", "EROSION_SIZE")),
            *("MODEL.CLOUDS.SAM.REFINEMENT", "MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE"),
        ),
        (sam.PROMPTS == "points", "MODEL.CLOUDS.SAM.PROMPTS is points", "MODEL.CLOUDS.SAM.SCORE_THRESHOLD"),
        (sam.MOBILE, "MODEL.CLOUDS.SAM.MOBILE is True", "MODEL.CLOUDS.SAM.TYPE"),
        (not sam.EROSION, "MODEL.CLOUDS.SAM.EROSION is False", "MODEL.CLOUDS.SAM.EROSION_SIZE"),
        (not sam.CACHE_DIR, "MODEL.CLOUDS.SAM.CACHE_DIR is empty", "MODEL.CLOUDS.SAM.CACHE_SIZE"),
        (not cfg.INPUT.COLOR_AUG_SSD, "INPUT.COLOR_AUG_SSD is False", "INPUT.COLOR_AUG_STRENGTH"),
        (
            data.SAMPLER_TRAIN == "TrainingSampler",
            "DATALOADER.SAMPLER_TRAIN is TrainingSampler",
            *("DATASETS.SOURCE_FACTOR", "DATASETS.TARGET_FACTOR"),
        ),
        (
            data.SAMPLER_TRAIN in ("TrainingSampler", "WeightedTrainingSampler"),
            "DATALOADER.SAMPLER_TRAIN is not RareClassSampler",
            "DATALOADER.RARE_CLASS",
        ),
        (solver.OPTIMIZER != "SGD", "SOLVER.OPTIMIZER is not SGD", "SOLVER.MOMENTUM"),
        (
            solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR",
            "SOLVER.LR_SCHEDULER_NAME is not WarmupMultiStepLR",
            *("SOLVER.STEPS", "SOLVER.GAMMA"),
        ),
        (
            solver.LR_SCHEDULER_NAME != "WarmupPolyLR",
            "SOLVER.LR_SCHEDULER_NAME is not WarmupPolyLR",
            *("SOLVER.POLY_LR_POWER", "SOLVER.POLY_LR_CONSTANT_ENDING"),
        ),
        (not solver.WARMUP_ITERS, "SOLVER.WARMUP_ITERS is 0", *("SOLVER.WARMUP_METHOD", "SOLVER.WARMUP_FACTOR")),
        (
            not solver.CLIP_GRADIENTS.ENABLED,
            "SOLVER.CLIP_GRADIENTS.ENABLED is False",
            *(f"SOLVER.CLIP_GRADIENTS.{key}" for key in ("CLIP_TYPE", "CLIP_VALUE", "NORM_TYPE")),
        ),
        (solver.CLIP_GRADIENTS.CLIP_TYPE == "value", "CLIP_TYPE is value", "SOLVER.CLIP_GRADIENTS.NORM_TYPE"),
        (not solver.AMP.ENABLED and not cfg.TEST.AMP, "SOLVER.AMP.ENABLED is False", "SOLVER.AMP.DTYPE"),
        (bool(cfg.TEST.PROTOCOLS), "TEST.PROTOCOLS is set", "TEST.PROTOCOL"),
        (cfg.MODEL.DEVICE == "cpu", "MODEL.DEVICE is cpu", *("CUDNN_BENCHMARK", "DETERMINISTIC")),
        (
            not cfg.INPUT.CROP.ENABLED,
            "INPUT.CROP.ENABLED is False",
            *("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "CUDNN_BENCHMARK"),
        ),
        (cfg.DETERMINISTIC, "DETERMINISTIC is True", "CUDNN_BENCHMARK"),
        (not cfg.TEST.WINDOW, "TEST.WINDOW is 0", "TEST.STRIDE"),
        (not cfg.TEST.AUG.ENABLED, "TEST.AUG.ENABLED is False", *("TEST.AUG.SCALES", "TEST.AUG.FLIP")),
        (not cfg.WANDB.PROJECT, "WANDB.PROJECT is empty", "WANDB.NAME"),
    )
    return {key: reason for unused, reason, *keys in reversed(table) if unused for key in keys}
