"""Building the SAM that a config describes."""

import importlib
import logging
from pathlib import Path

import torch

from clouds.d2 import CfgNode
from clouds.errors import UserError, check_name
from clouds.self_training.sam.base import SAM_REGISTRY, Sam
from clouds.self_training.sam.cache import CachedSam

logger = logging.getLogger(__name__)

BACK_ENDS = {
    "mobile_sam": "mobile_sam",
    **dict.fromkeys(("vit_h", "vit_l", "vit_b"), "segment_anything"),
    "segment_anything": "segment_anything_folder",
    "transformers": "transformers",
}
"""Module in this package that registers each back end. Only that of the one in use is imported: some take seconds."""


def build_sam(cfg: CfgNode, device: torch.device | str) -> Sam:
    """Build the SAM that `cfg.MODEL.CLOUDS.SAM` names, with its weights and, if `CACHE_DIR` is set, with a cache.

    Raises:
        UserError: an unknown type, one that does not take the prompts `PROMPTS`, weights that are missing, damaged or
            of another network, or a cache folder that cannot be written to.
    """
    settings = cfg.MODEL.CLOUDS.SAM
    kind = "mobile_sam" if settings.MOBILE else settings.TYPE
    check_name("MODEL.CLOUDS.SAM.TYPE", kind, BACK_ENDS | dict(SAM_REGISTRY))
    if kind in BACK_ENDS:
        if kind != "transformers":  # before weights are missed that would not help
            _check_prompts(cfg, kind, "points")
        importlib.import_module(f"{__package__}.{BACK_ENDS[kind]}")
    sam: Sam = SAM_REGISTRY.get(kind)(cfg, torch.device(device))
    _check_prompts(cfg, kind, sam.prompts)
    logger.info("SAM: %s, images of %d pixels, %s as prompts", kind, settings.IMAGE_SIZE, sam.prompts)
    if not settings.CACHE_DIR:
        return sam
    logger.info("SAM's embeddings are kept in %s, at most %g GB", settings.CACHE_DIR, settings.CACHE_SIZE)
    try:
        return CachedSam(sam, Path(settings.CACHE_DIR), gigabytes=settings.CACHE_SIZE)
    except OSError as error:
        raise UserError(
            f"Cannot write embeddings to the folder {settings.CACHE_DIR} (MODEL.CLOUDS.SAM.CACHE_DIR): "
            f'{error.strerror}. Set the key to another folder, or to "" for no cache.'
        ) from error


def _check_prompts(cfg: CfgNode, kind: str, taken: str) -> None:
    if cfg.MODEL.CLOUDS.SAM.PROMPTS != taken:
        raise UserError(
            f"MODEL.CLOUDS.SAM.PROMPTS is {cfg.MODEL.CLOUDS.SAM.PROMPTS}, but the SAM {kind} takes {taken}: set it to "
            f"{taken}, or MODEL.CLOUDS.SAM.MOBILE False, TYPE transformers and WEIGHTS to a folder of SAM 3."
        )
