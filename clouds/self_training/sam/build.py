"""Building the SAM that a config describes."""

import logging
from pathlib import Path

import torch

from clouds.d2 import CfgNode
from clouds.errors import UserError, check_name
from clouds.self_training.sam import mobile_sam as _mobile_sam  # noqa: F401  (registers its back end)
from clouds.self_training.sam import segment_anything as _segment_anything  # noqa: F401
from clouds.self_training.sam import segment_anything_folder as _segment_anything_folder  # noqa: F401
from clouds.self_training.sam import transformers as _transformers  # noqa: F401
from clouds.self_training.sam.base import SAM_REGISTRY, Sam
from clouds.self_training.sam.cache import CachedSam

logger = logging.getLogger(__name__)


def build_sam(cfg: CfgNode, device: torch.device | str) -> Sam:
    """Build the SAM that `cfg.MODEL.CLOUDS.SAM` names, with its weights and, if `CACHE_DIR` is set, with a cache.

    Raises:
        UserError: an unknown type, weights that are missing, damaged or of another network, or a cache folder that
            cannot be written to.
    """
    settings = cfg.MODEL.CLOUDS.SAM
    kind = "mobile_sam" if settings.MOBILE else settings.TYPE
    check_name("MODEL.CLOUDS.SAM.TYPE", kind, dict(SAM_REGISTRY))
    sam: Sam = SAM_REGISTRY.get(kind)(cfg, torch.device(device))
    logger.info("SAM: %s, images of %d pixels", kind, settings.IMAGE_SIZE)
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
