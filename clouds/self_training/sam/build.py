"""From the config to a SAM."""

import logging
from pathlib import Path

import torch

from clouds.d2 import CfgNode
from clouds.errors import UserError, check_name
from clouds.self_training.sam.base import NetworkSam, Sam
from clouds.self_training.sam.cache import CachedSam
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.segment_anything import SegmentAnything, load_weights, mobile_sam, set_image_size, vit_sam
from clouds.self_training.sam.segment_anything_folder import load_described
from clouds.self_training.sam.transformers import TransformersSam, load_folder

logger = logging.getLogger(__name__)

WEIGHTS = {
    "mobile_sam": "weights/mobile_sam.pt",
    "vit_h": "weights/sam_vit_h_4b8939.pth",
    "vit_l": "weights/sam_vit_l_0b3195.pth",
    "vit_b": "weights/sam_vit_b_01ec64.pth",
}
GET_WEIGHTS = "python tools/get_weights.py mobile_sam"


def build_sam(cfg: CfgNode, device: torch.device | str) -> Sam:
    """The SAM that `cfg.MODEL.CLOUDS.SAM` asks for, with its weights and, if there is to be one, its cache.

    Raises:
        UserError: weights that are missing, damaged or of another network; a size or number that cannot be.
    """
    settings = cfg.MODEL.CLOUDS.SAM
    kind = "mobile_sam" if settings.MOBILE else settings.TYPE
    check_name("MODEL.CLOUDS.SAM.TYPE", kind, [*WEIGHTS, "transformers", "segment_anything"])
    if settings.IMAGE_SIZE < 64 or settings.IMAGE_SIZE % 64:
        raise UserError(f"MODEL.CLOUDS.SAM.IMAGE_SIZE is {settings.IMAGE_SIZE}; it must be a multiple of 64 pixels.")
    if settings.PROMPTS_AT_ONCE < 1:
        raise UserError(f"MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE is {settings.PROMPTS_AT_ONCE}; it must be 1 or more.")
    sam: Sam = _load(settings, kind, torch.device(device))
    logger.info("SAM: %s, images of %d pixels", kind, settings.IMAGE_SIZE)
    if settings.CACHE_DIR:
        sam = CachedSam(sam, Path(settings.CACHE_DIR), gigabytes=settings.CACHE_SIZE)
    return sam


def _load(settings: CfgNode, kind: str, device: torch.device) -> NetworkSam:
    side, folder = settings.IMAGE_SIZE, Path(settings.WEIGHTS)
    backend: type[NetworkSam]
    if kind == "transformers":
        network, kind = load_folder(folder, side)
        backend, frame = TransformersSam, Frame(side, keep_aspect=kind == "sam")
    elif kind == "segment_anything":
        network, kind = load_described(folder, side)
        backend, frame = SegmentAnything, Frame(side)
    else:
        path = folder if settings.WEIGHTS else Path(WEIGHTS[kind])
        remedy = f"get them with `{GET_WEIGHTS}`"
        if kind != "mobile_sam":
            remedy = f"put the published ones of {kind} there, or set MODEL.CLOUDS.SAM.MOBILE True and {remedy}"
        if not path.is_file():
            raise UserError(f"SAM's weights are missing: there is no file {path} (MODEL.CLOUDS.SAM.WEIGHTS); {remedy}.")
        network = mobile_sam() if kind == "mobile_sam" else vit_sam(kind)
        load_weights(network, path, remedy)
        set_image_size(network, side)
        backend, frame = SegmentAnything, Frame(side)
    return backend(
        network,
        name=kind,
        frame=frame,
        refinement=settings.REFINEMENT,
        prompts_at_once=settings.PROMPTS_AT_ONCE,
        device=device,
    )
