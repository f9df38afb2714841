"""Meta's SAM with its ViT encoders, by the `segment_anything` package. Letters as in `base`."""

from functools import cached_property

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam as SamModules
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import CfgNode
from clouds.self_training.sam.base import SAM_REGISTRY, PointSam, point_options
from clouds.self_training.sam.decoder import decode_best, pixel_positions
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.weights import build_with_weights

PATCH = 16  # pixels, side of the image patch of one element of an embedding


class SegmentAnything(PointSam):
    """An image encoder with segment_anything's prompt encoder and mask decoder."""

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.network.image_encoder(pixels),)

    def decode(self, features: tuple[Tensor, ...], points: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        inside = torch.ones(points.shape[:2], dtype=torch.int, device=points.device)
        sparse, dense = self.network.prompt_encoder(points=(points, inside), boxes=None, masks=logits)
        return self.network.mask_decoder(
            image_embeddings=features[0][None],
            image_pe=self.network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )

    def decode_best(self, features: tuple[Tensor, ...], points: Tensor, logits: Tensor | None) -> Tensor:
        return decode_best(self.network, features[0], self._positions, points, logits)

    @cached_property
    def _positions(self) -> Tensor:
        return pixel_positions(self.network.prompt_encoder)


@SAM_REGISTRY.register()
def vit_h(cfg: CfgNode, device: torch.device) -> SegmentAnything:
    """Build the SAM with the largest encoder, ViT-H, which the paper also evaluates."""
    return build_vit("vit_h", cfg, device)


@SAM_REGISTRY.register()
def vit_l(cfg: CfgNode, device: torch.device) -> SegmentAnything:
    """Build the SAM with the encoder ViT-L."""
    return build_vit("vit_l", cfg, device)


@SAM_REGISTRY.register()
def vit_b(cfg: CfgNode, device: torch.device) -> SegmentAnything:
    """Build the SAM with the smallest encoder of Meta's, ViT-B."""
    return build_vit("vit_b", cfg, device)


def build_vit(kind: str, cfg: CfgNode, device: torch.device) -> SegmentAnything:
    """Build a SAM with a ViT encoder: "vit_h", "vit_l" or "vit_b"."""
    side = cfg.MODEL.CLOUDS.SAM.IMAGE_SIZE
    network = build_with_weights(sam_model_registry[kind], kind, cfg)
    set_image_size(network, side)
    return SegmentAnything(network, name=kind, frame=Frame(side), **point_options(cfg, device))


def set_image_size(network: SamModules, side: int, patch: int = PATCH) -> None:
    """Set the size of the square that a network with weights sees; published weights were trained on 1024 pixels.

    Points and decoder use positions as fractions of the square, TinyViT uses none, and the ViTs resize their relative
    positions themselves. Absolute positions are resized here (bicubic, as usual for vision transformers).

    Args:
        network: network to change in place.
        side: S, side of the square in pixels.
        patch: side in pixels of the image patch of one element of an embedding.
    """
    if side % patch:
        raise ValueError(f"side is {side}; it must be a multiple of patch, {patch}")
    grid = side // patch
    prompts = network.prompt_encoder
    prompts.input_image_size = (side, side)
    prompts.image_embedding_size = (grid, grid)
    prompts.mask_input_size = (4 * grid, 4 * grid)
    positions = getattr(network.image_encoder, "pos_embed", None)  # (1, h, w, C)
    if positions is not None and positions.shape[1] != grid:
        resized = F.interpolate(positions.detach().permute(0, 3, 1, 2), (grid, grid), mode="bicubic")
        network.image_encoder.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1))
