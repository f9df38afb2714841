"""MobileSAM (Zhang et al., 2023): SAM with a small image encoder, TinyViT."""

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as SamModules

from clouds.d2 import CfgNode
from clouds.self_training.sam.base import SAM_REGISTRY, point_options
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.segment_anything import SegmentAnything, set_image_size
from clouds.self_training.sam.tiny_vit import EMBEDDING, STRIDE, TinyViT
from clouds.self_training.sam.weights import build_with_weights

NATIVE_SIZE = 1024  # pixels, side of the square that the published weights were trained on


@SAM_REGISTRY.register()
def mobile_sam(cfg: CfgNode, device: torch.device) -> SegmentAnything:
    """Build MobileSAM with its weights: the default back end."""
    side = cfg.MODEL.CLOUDS.SAM.IMAGE_SIZE
    network = build_with_weights(mobile_network, "mobile_sam", cfg)
    set_image_size(network, side, STRIDE)
    return SegmentAnything(network, name="mobile_sam", frame=Frame(side), **point_options(cfg, device))


def mobile_network() -> SamModules:
    """Build MobileSAM's network without weights."""
    grid = NATIVE_SIZE // STRIDE
    return SamModules(
        image_encoder=TinyViT(),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING,
            image_embedding_size=(grid, grid),
            input_image_size=(NATIVE_SIZE, NATIVE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=EMBEDDING,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING, num_heads=8, mlp_dim=2048),
        ),
    )
