"""Mask2Former's masked-attention transformer decoder, with three class heads.

Letters: B images, Q queries, C channels of the decoder, E channels of the mask features, K classes, h x w mask logits.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import CfgNode, Registry, configurable
from clouds.modeling.layers import (
    MLP,
    convolution_init,
    full_precision,
    mask_pool,
    mask_products,
    sine_position_embedding,
)
from clouds.modeling.structures import MaskFactors, Prediction
from clouds.modeling.text_classifier import TextClassifier
from clouds.modeling.transformer_decoder.layers import CrossAttentionLayer, FFNLayer, SelfAttentionLayer

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
"""Decoders by `MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME`, called with (cfg)."""

NUM_LEVELS = 3  # feature maps that the layers attend to in turn


class MaskedTransformerDecoder(nn.Module):
    """Learnt queries that each predict a mask and are refined over three scales; subclasses predict its class.

    Cheng et al., *Masked-attention Mask Transformer for Universal Image Segmentation*, CVPR 2022, section 3.2.

    Attributes:
        uses_text: whether the class head needs a text classifier.
    """

    uses_text = False

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        num_heads: int,
        dim_feedforward: int,
        num_layers: int,
        mask_dim: int,
        embed_dim: int,
        pre_norm: bool = False,
        project_input: bool = False,
    ) -> None:
        """
        Args:
            in_channels: channels of the three maps.
            num_classes: K, number of classes without void.
            hidden_dim: C, channels of the queries.
            num_queries: Q, number of queries.
            num_heads: number of attention heads.
            dim_feedforward: hidden channels of the feed-forward networks.
            num_layers: number of decoder layers; there is one prediction more.
            mask_dim: E, channels of the mask features.
            embed_dim: dimension of the text space, for a text head.
            pre_norm: whether to normalize before instead of after each block.
            project_input: whether to project the maps by a 1x1 convolution even if their channels fit.
        """
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads, pre_norm) for _ in range(num_layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads, pre_norm) for _ in range(num_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FFNLayer(hidden_dim, dim_feedforward, pre_norm) for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden_dim)
        self.input_proj = nn.ModuleList(nn.Identity() for _ in range(NUM_LEVELS))
        if project_input or in_channels != hidden_dim:
            projections = [nn.Conv2d(in_channels, hidden_dim, 1) for _ in range(NUM_LEVELS)]
            for projection in projections:
                convolution_init(projection)
            self.input_proj = nn.ModuleList(projections)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)
        self.build_class_head(num_classes, hidden_dim, mask_dim, embed_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
        return {
            "in_channels": head.CONVS_DIM,
            "num_classes": head.NUM_CLASSES,
            "hidden_dim": former.HIDDEN_DIM,
            "num_queries": former.NUM_OBJECT_QUERIES,
            "num_heads": former.NHEADS,
            "dim_feedforward": former.DIM_FEEDFORWARD,
            # DEC_LAYERS counts predictions, of which the learnt queries make one before the first layer.
            "num_layers": former.DEC_LAYERS - 1,
            "mask_dim": head.MASK_DIM,
            "embed_dim": cfg.MODEL.CLOUDS.EMBED_DIM,
            "pre_norm": former.PRE_NORM,
            "project_input": former.ENFORCE_INPUT_PROJ,
        }

    def build_class_head(self, num_classes: int, hidden_dim: int, mask_dim: int, embed_dim: int) -> None:
        """Create the modules that `classify` uses; the constructor calls this."""
        raise NotImplementedError

    def classify(
        self,
        queries: Tensor,
        mask_features: Tensor,
        mask_logits: Tensor,
        text: TextClassifier | None,
        void: Tensor | None,
    ) -> Tensor:
        """Predict the class of each query.

        Args:
            queries: (B, Q, C), after the decoder's norm.
            mask_features: (B, E, h, w).
            mask_logits: (B, Q, h, w), masks of the queries.
            text: text classifier; only a text head uses it.
            void: (1, D) learnt embedding of "no object"; only a text head uses it.

        Returns:
            (B, Q, K + 1) class logits, void last.
        """
        raise NotImplementedError

    def forward(
        self,
        maps: Sequence[Tensor],
        mask_features: Tensor,
        text: TextClassifier | None,
        void: Tensor | None,
        query_position: Tensor | None = None,
    ) -> list[Prediction]:
        """Predict classes and masks.

        Args:
            maps: three maps (B, in_channels, h_l, w_l), from coarse to fine.
            mask_features: (B, E, h, w).
            text: text classifier; only a text head uses it.
            void: (1, D) learnt embedding of "no object"; only a text head uses it.
            query_position: (Q, C) position embeddings of the queries; default: `query_embed`, the decoder's own.

        Returns:
            In training, the prediction of the learnt queries and one after each layer; the last is the result. In
            evaluation, the result alone.
        """
        batch = mask_features.shape[0]
        memories, positions, sizes = [], [], []
        for x, projection, embedding in zip(maps, self.input_proj, self.level_embed.weight, strict=True):
            memories.append(projection(x).flatten(2).transpose(1, 2) + embedding)
            size = (x.shape[-2], x.shape[-1])
            position = sine_position_embedding(*size, self.query_feat.embedding_dim, x)
            positions.append(position.flatten(1).T.to(x.dtype))
            sizes.append(size)

        # In evaluation, inner masks serve only as attention masks. Resizing and multiplying commute, so the features
        # are resized once instead of the masks in every layer.
        coarse = [] if self.training else [resized(mask_features, size) for size in sizes]
        queries = self.query_feat.weight.expand(batch, -1, -1)
        query_position = self.query_embed.weight if query_position is None else query_position
        predictions: list[Prediction] = []
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for i, (cross_attention, self_attention, ffn) in enumerate(layers):
            level = i % NUM_LEVELS
            if self.training:
                predictions.append(self._predict(queries, mask_features, text, void))
                masks = predictions[-1].mask_logits
            else:
                masks = mask_products(self.mask_embed(self.decoder_norm(queries)), coarse[level])
            allowed = attention_mask(masks, sizes[level])
            queries = cross_attention(queries, query_position, memories[level], positions[level], allowed)
            queries = ffn(self_attention(queries, query_position))
        return [*predictions, self._predict(queries, mask_features, text, void)]

    def _predict(
        self, queries: Tensor, mask_features: Tensor, text: TextClassifier | None, void: Tensor | None
    ) -> Prediction:
        queries = self.decoder_norm(queries)
        embeddings = self.mask_embed(queries)
        with torch.no_grad():
            mask_logits = mask_products(embeddings, mask_features)
        class_logits = self.classify(queries, mask_features, mask_logits, text, void).float()
        factors = MaskFactors(embeddings, mask_features) if self.training and torch.is_grad_enabled() else None
        return Prediction(class_logits, mask_logits, factors)


@full_precision
def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, E, h, w) to (B, E, *size), bilinear, in float32."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def attention_mask(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, Q, h * w) bool, the pixels inside each query's mask at `size` (h, w); all pixels if it is empty."""
    inside = (resized(mask_logits, size).sigmoid() >= 0.5).flatten(2)
    return inside | ~inside.any(dim=-1, keepdim=True)


@TRANSFORMER_DECODER_REGISTRY.register()
class OriginalMultiScaleMaskedTransformerDecoder(MaskedTransformerDecoder):
    """Decoder with Mask2Former's linear classifier on the queries: the default."""

    def build_class_head(self, num_classes: int, hidden_dim: int, mask_dim: int, embed_dim: int) -> None:
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)

    def classify(
        self,
        queries: Tensor,
        mask_features: Tensor,
        mask_logits: Tensor,
        text: TextClassifier | None,
        void: Tensor | None,
    ) -> Tensor:
        return self.class_embed(queries)


class _PooledHead(MaskedTransformerDecoder):
    """Base of class heads that add the mask features pooled under a query's mask to the query."""

    def build_class_head(self, num_classes: int, hidden_dim: int, mask_dim: int, embed_dim: int) -> None:
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(mask_dim), nn.Linear(mask_dim, hidden_dim))

    def pooled(self, queries: Tensor, mask_features: Tensor, mask_logits: Tensor) -> Tensor:
        """Add the pooled and projected mask features to queries (B, Q, C)."""
        return queries + self._mask_pooling_proj(mask_pool(mask_features, mask_logits))


@TRANSFORMER_DECODER_REGISTRY.register()
class BisMultiScaleMaskedTransformerDecoder(_PooledHead):
    """Decoder with mask pooling and a linear classifier."""

    def build_class_head(self, num_classes: int, hidden_dim: int, mask_dim: int, embed_dim: int) -> None:
        super().build_class_head(num_classes, hidden_dim, mask_dim, embed_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)

    def classify(
        self,
        queries: Tensor,
        mask_features: Tensor,
        mask_logits: Tensor,
        text: TextClassifier | None,
        void: Tensor | None,
    ) -> Tensor:
        return self.class_embed(self.pooled(queries, mask_features, mask_logits))


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(_PooledHead):
    """Decoder with mask pooling and cosine similarity to the class names' text embeddings, as in FC-CLIP."""

    uses_text = True

    def build_class_head(self, num_classes: int, hidden_dim: int, mask_dim: int, embed_dim: int) -> None:
        super().build_class_head(num_classes, hidden_dim, mask_dim, embed_dim)
        self.class_embed = MLP(hidden_dim, hidden_dim, embed_dim, 3)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def classify(
        self,
        queries: Tensor,
        mask_features: Tensor,
        mask_logits: Tensor,
        text: TextClassifier | None,
        void: Tensor | None,
    ) -> Tensor:
        if text is None or void is None:
            raise ValueError("text and void are None; a text head needs a text classifier and a void embedding")
        embedded = self.class_embed(self.pooled(queries, mask_features, mask_logits))
        return text.logits(embedded, void, self.logit_scale)


def build_transformer_decoder(cfg: CfgNode) -> MaskedTransformerDecoder:
    """Build the decoder that ``MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME`` names."""
    return TRANSFORMER_DECODER_REGISTRY.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)(cfg)
