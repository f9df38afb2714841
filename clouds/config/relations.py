"""Relations between config keys, checked once when a config is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from clouds.errors import UserError, check_name

if TYPE_CHECKING:
    from clouds.d2 import CfgNode


def check_relations(cfg: CfgNode) -> None:
    """Check the relations between values that are each in their range.

    Raises:
        UserError: two values do not fit together. The message names both keys.
    """
    _check_decoders(cfg)
    _check_sampling(cfg)


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
