"""SAM from a weight file: segment-anything's own ViTs, and MobileSAM. Letters as in `interface`."""

from pathlib import Path

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as SamModules
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.errors import UserError
from clouds.self_training.sam.base import NetworkSam
from clouds.self_training.sam.tiny_vit import EMBEDDING, STRIDE, TinyViT
from clouds.utils.torch_files import read_tensors

NATIVE_SIZE = 1024  # pixels, what all of them were trained on


class SegmentAnything(NetworkSam):
    """An image encoder with segment-anything's prompt encoder and mask decoder."""

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


def mobile_sam() -> nn.Module:
    """MobileSAM, not yet with its weights."""
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


def vit_sam(kind: str) -> nn.Module:
    """SAM with the encoder "vit_h", "vit_l" or "vit_b", not yet with its weights."""
    return sam_model_registry[kind]()


def load_weights(network: nn.Module, path: Path, remedy: str) -> None:
    """Load a state dict, every key of it and of the network.

    Args:
        network: filled in place.
        path: of a file that torch saved.
        remedy: what to do about an unfit file, the end of a sentence.

    Raises:
        UserError: the file is damaged, is not a state dict, or is that of another network.
    """
    try:
        state = read_tensors(path)
    except ValueError as error:
        raise UserError(
            f"SAM's weights {path} cannot be read (the file is damaged or no state dict): {remedy}."
        ) from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"SAM's weights {path} are those of another network: {remedy}.") from error


def set_image_size(network: SamModules, side: int, stride: int = STRIDE) -> None:
    """Let a loaded network see squares of another size than it was trained on, 1024 pixels for all published ones.

    Points and decoder know positions as fractions of the square, TinyViT knows none, and the ViTs resize their relative
    positions themselves; their absolute ones are resized here (bicubic, as usual for vision transformers).

    Args:
        network: changed in place.
        side: S, pixels.
        stride: pixels, side of what becomes one element of the embedding.
    """
    grid = side // stride
    prompts = network.prompt_encoder
    prompts.input_image_size = (side, side)
    prompts.image_embedding_size = (grid, grid)
    prompts.mask_input_size = (4 * grid, 4 * grid)
    positions = getattr(network.image_encoder, "pos_embed", None)  # (1, h, w, C)
    if positions is not None and positions.shape[1] != grid:
        resized = F.interpolate(positions.detach().permute(0, 3, 1, 2), (grid, grid), mode="bicubic")
        network.image_encoder.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1))
