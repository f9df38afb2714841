"""A CLIP with a ViT of timm as image tower, for training and evaluation.

`clouds` segments with the image tower alone (`MODEL.BACKBONE.NAME TimmTower`); its `CLIP` has no ViT.

Letters: B images, Q masks, M prompts, C channels, H x W images, h x w feature map, D width of the space that images and
texts share.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.backbone.towers import image_tower
from clouds.modeling.layers import mask_pool
from clouds.modeling.text_classifier import TextClassifier, build_text_classifier


class ViTClip(nn.Module):
    """Image and text tower with those methods of `clouds.modeling.backbone.clip.CLIP` that the miniatures use.

    The image tower must average its normalized patches, so that the part of an image under a mask can be embedded like
    a whole image.
    """

    def __init__(self, *, clip_model: Any, tokenize: Callable[[list[str]], Tensor]) -> None:
        """
        Args:
            clip_model: an open_clip model with a ViT of timm as image tower.
            tokenize: function from M prompts to (M, context length) int64 tokens.
        """
        super().__init__()
        self.clip_model = clip_model
        self.tokenize = tokenize

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the inverse temperature, scalar."""
        scale: Tensor = self.clip_model.logit_scale
        return scale

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute feature maps of one stride: those of four blocks, and the normalized patches.

        Args:
            images: (B, 3, H, W) float, normalized; H and W are multiples of the patch size.

        Returns:
            Maps (B, C, h, w): `res2` to `res5` and `clip_vis_dense`.
        """
        trunk = self.clip_model.visual.trunk
        depth = len(trunk.blocks)
        read = [round(depth * share) - 1 for share in (1 / 3, 1 / 2, 2 / 3, 1)]  # blocks 8, 12, 16 and 24 of 24
        tokens, maps = trunk.forward_intermediates(images, indices=read, output_fmt="NCHW")
        dense = tokens[:, trunk.num_prefix_tokens :].transpose(1, 2).unflatten(2, maps[-1].shape[-2:])
        return {**{f"res{level}": each for level, each in enumerate(maps, start=2)}, "clip_vis_dense": dense}

    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed the image region under each mask.

        Args:
            dense: (B, C, h, w), the feature `clip_vis_dense`.
            mask_logits: (B, Q, h, w); a pixel is inside a mask where its logit is positive.

        Returns:
            (B, Q, D) float32, not normalized.
        """
        embedded: Tensor = self.clip_model.visual.head(mask_pool(dense, mask_logits))
        return embedded

    def embed_whole(self, dense: Tensor) -> Tensor:
        """Embed whole images of any size, from the feature `clip_vis_dense` (B, C, h, w), into (B, D) float32."""
        return self.embed_masks(dense, dense.new_ones(len(dense), 1, *dense.shape[-2:]))[:, 0]

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Encode M prompts into (M, D) text features, not normalized."""
        features: Tensor = self.clip_model.encode_text(self.tokenize(prompts).to(self.logit_scale.device))
        return features

    def text_classifier(self, class_names: Sequence[str]) -> TextClassifier:
        """Return the text classifier of class names, synonyms separated by commas."""
        return build_text_classifier(self.encode_text, class_names)


Towers = CLIP | ViTClip
"""Image and text tower of a miniature."""


def has_vit(clip_model: Any) -> bool:
    """Return whether the image tower of an open_clip model is a ViT of timm."""
    return isinstance(image_tower(clip_model), Eva | VisionTransformer)
