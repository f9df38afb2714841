"""Layers of the transformer decoder: attention and feed-forward network, each as a residual block.

Letters: B images, Q queries, S keys, C channels of the decoder.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.modeling.layers import xavier_init


class Attention(nn.Module):
    """Multi-head attention with the parameters of `nn.MultiheadAttention` and one mask for all heads."""

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
        """Attend from Q queries to S keys.

        Args:
            query: (B, Q, C).
            key: (B, S, C).
            value: (B, S, C).
            allowed: (B, Q, S) bool, True where a query may attend; None = everywhere.

        Returns:
            (B, Q, C).
        """
        projections = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x, w, b in projections)
        mask = None if allowed is None else allowed.unsqueeze(1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """Residual block: norm(x + f(x)), or x + f(norm(x)) with `pre_norm`. Subclasses define f."""

    def __init__(self, dim: int, pre_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        """Compute f(x) for x (B, Q, C)."""
        raise NotImplementedError

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        if self.pre_norm:
            return x + self.compute(self.norm(x), *context)
        return self.norm(x + self.compute(x, *context))


class CrossAttentionLayer(Residual):
    """Masked attention: queries attend to the pixels inside their own masks."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__(dim, pre_norm)
        self.multihead_attn = Attention(dim, num_heads)
        xavier_init(self)

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        query_position, memory, memory_position, allowed = context
        return self.multihead_attn(x + query_position, memory + memory_position, memory, allowed)


class SelfAttentionLayer(Residual):
    """Queries attend to each other."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__(dim, pre_norm)
        self.self_attn = Attention(dim, num_heads)
        xavier_init(self)

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        (query_position,) = context
        positioned = x + query_position
        return self.self_attn(positioned, positioned, x)


class FFNLayer(Residual):
    """Feed-forward network: two linear layers with ReLU in between."""

    def __init__(self, dim: int, dim_feedforward: int, pre_norm: bool) -> None:
        super().__init__(dim, pre_norm)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        xavier_init(self)

    def compute(self, x: Tensor, *context: Any) -> Tensor:
        return self.linear2(F.relu(self.linear1(x)))
