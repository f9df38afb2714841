"""Mask2Former's masked-attention transformer decoder: one decoder, three ways to name a mask.

Letters: B images, Q queries, C channels of the decoder, E channels of the mask features, K classes, h x w mask logits.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import CfgNode, Registry, configurable
from clouds.errors import check_name
from clouds.modeling.layers import (
    MLP,
    convolution_init,
    full_precision,
    mask_pool,
    sine_position_embedding,
    xavier_init,
)
from clouds.modeling.structures import Prediction
from clouds.modeling.text_classifier import TextClassifier

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
"""Decoders by `MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME`, called with (cfg)."""

NUM_LEVELS = 3


class Attention(nn.Module):
    """Multi-head attention with `nn.MultiheadAttention`'s parameters and one mask for all heads."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim is {dim}; it must be a multiple of num_heads, {num_heads}")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """
        Args:
            query: (B, Q, C).
            key: (B, S, C).
            value: (B, S, C).
            allowed: (B, Q, S) bool, where a query may look; None is everywhere.

        Returns:
            (B, Q, C).
        """
        projections = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x, w, b in projections)
        mask = None if allowed is None else allowed.unsqueeze(1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """x + f(x) with a norm behind the sum (or before f when `pre_norm`); subclasses say what f is."""

    def __init__(self, dim: int, pre_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        """f(x)."""
        raise NotImplementedError

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        if self.pre_norm:
            return x + self.compute(self.norm(x), *context)
        return self.norm(x + self.compute(x, *context))


class CrossAttentionLayer(Residual):
    """Queries look at the pixels inside their own mask."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__(dim, pre_norm)
        self.multihead_attn = Attention(dim, num_heads)
        xavier_init(self)

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        query_position, memory, memory_position, allowed = context
        return self.multihead_attn(x + query_position, memory + memory_position, memory, allowed)


class SelfAttentionLayer(Residual):
    """Queries look at each other."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__(dim, pre_norm)
        self.self_attn = Attention(dim, num_heads)
        xavier_init(self)

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        (query_position,) = context
        positioned = x + query_position
        return self.self_attn(positioned, positioned, x)


class FFNLayer(Residual):
    """Two linear layers with ReLU between."""

    def __init__(self, dim: int, dim_feedforward: int, pre_norm: bool) -> None:
        super().__init__(dim, pre_norm)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        xavier_init(self)

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        return self.linear2(F.relu(self.linear1(x)))


class MaskedTransformerDecoder(nn.Module):
    """Learnt queries, refined over three scales, each giving a mask; subclasses give the mask its class.

    After Cheng et al., *Masked-attention Mask Transformer*, CVPR 2022, section 3.2.
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
            in_channels: of the three maps.
            num_classes: K, without void.
            hidden_dim: C.
            num_queries: Q.
            num_heads: attention heads.
            dim_feedforward: hidden width of the feed-forward networks.
            num_layers: decoder layers; one prediction more than that comes out.
            mask_dim: E.
            embed_dim: dimension of CLIP's space, for the head that needs it.
            pre_norm: norm before instead of behind each block.
            project_input: 1x1 convolution on the maps even where the channels already fit.
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
            # The learnt queries predict too, before any layer; DEC_LAYERS counts predictions.
            "num_layers": former.DEC_LAYERS - 1,
            "mask_dim": head.MASK_DIM,
            "embed_dim": cfg.MODEL.CLOUDS.EMBED_DIM,
            "pre_norm": former.PRE_NORM,
            "project_input": former.ENFORCE_INPUT_PROJ,
        }

    def build_class_head(self, num_classes: int, hidden_dim: int, mask_dim: int, embed_dim: int) -> None:
        """Create the modules that `classify` needs."""
        raise NotImplementedError

    def classify(
        self,
        queries: Tensor,
        mask_features: Tensor,
        mask_logits: Tensor,
        text: TextClassifier | None,
        void: Tensor | None,
    ) -> Tensor:
        """
        Args:
            queries: (B, Q, C) after the decoder norm.
            mask_features: (B, E, h, w).
            mask_logits: (B, Q, h, w).
            text: the text classifier, for a head that uses text.
            void: (1, D) the learnt void embedding, for a head that uses text.

        Returns:
            (B, Q, K + 1) class logits, void last.
        """
        raise NotImplementedError

    def forward(
        self, maps: Sequence[Tensor], mask_features: Tensor, text: TextClassifier | None, void: Tensor | None
    ) -> list[Prediction]:
        """
        Args:
            maps: three maps (B, in_channels, h_l, w_l) from coarse to fine.
            mask_features: (B, E, h, w).
            text: see `classify`.
            void: see `classify`.

        Returns:
            One prediction for the learnt queries and one after each layer; the last is the result.
        """
        batch = mask_features.shape[0]
        memories, positions, sizes = [], [], []
        for x, projection, embedding in zip(maps, self.input_proj, self.level_embed.weight, strict=True):
            memories.append(projection(x).flatten(2).transpose(1, 2) + embedding)
            size = (x.shape[-2], x.shape[-1])
            position = sine_position_embedding(*size, self.query_feat.embedding_dim, x)
            positions.append(position.flatten(1).T.to(x.dtype))
            sizes.append(size)

        queries = self.query_feat.weight.expand(batch, -1, -1)
        query_position = self.query_embed.weight
        predictions = [self._predict(queries, mask_features, text, void)]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for i, (cross_attention, self_attention, ffn) in enumerate(layers):
            level = i % NUM_LEVELS
            allowed = attention_mask(predictions[-1].mask_logits, sizes[level])
            queries = cross_attention(queries, query_position, memories[level], positions[level], allowed)
            queries = ffn(self_attention(queries, query_position))
            predictions.append(self._predict(queries, mask_features, text, void))
        return predictions

    def _predict(
        self, queries: Tensor, mask_features: Tensor, text: TextClassifier | None, void: Tensor | None
    ) -> Prediction:
        queries = self.decoder_norm(queries)
        mask_logits = mask_products(self.mask_embed(queries), mask_features)
        return Prediction(self.classify(queries, mask_features, mask_logits, text, void).float(), mask_logits)


@full_precision
def mask_products(embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """(B, Q, E) and (B, E, h, w) -> (B, Q, h, w) float32.

    Autocast would save neither range nor memory: it would keep a half-precision copy of the mask features for the
    backward pass of every decoder output.
    """
    return torch.einsum("bqe,behw->bqhw", embeddings.float(), mask_features.float())


@torch.no_grad()
def attention_mask(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, Q, h * w) bool: pixels inside each query's mask at `size`; an empty mask may look everywhere."""
    resized = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    inside = (resized.sigmoid() >= 0.5).flatten(2)
    return inside | ~inside.any(dim=-1, keepdim=True)


@TRANSFORMER_DECODER_REGISTRY.register()
class OriginalMultiScaleMaskedTransformerDecoder(MaskedTransformerDecoder):
    """Mask2Former's linear classifier on the query: the shipped default."""

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
    """Adds to the query what the mask features hold under its mask."""

    def build_class_head(self, num_classes: int, hidden_dim: int, mask_dim: int, embed_dim: int) -> None:
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(mask_dim), nn.Linear(mask_dim, hidden_dim))

    def pooled(self, queries: Tensor, mask_features: Tensor, mask_logits: Tensor) -> Tensor:
        """(B, Q, C)."""
        return queries + self._mask_pooling_proj(mask_pool(mask_features, mask_logits))


@TRANSFORMER_DECODER_REGISTRY.register()
class BisMultiScaleMaskedTransformerDecoder(_PooledHead):
    """Mask pooling, then a linear classifier."""

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
    """Mask pooling, then cosine similarity with the text embeddings of the classes (FC-CLIP's in-vocabulary head)."""

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
    """The decoder named by MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME."""
    name = cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME
    check_name("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", name, dict(TRANSFORMER_DECODER_REGISTRY))
    return TRANSFORMER_DECODER_REGISTRY.get(name)(cfg)
