"""Rein: learnt tokens that refine the features between the blocks of a frozen transformer.

Wei et al., *Stronger, Fewer, & Superior: Harnessing Vision Foundation Models for Domain Generalized Semantic
Segmentation*, CVPR 2024, section 3.

Letters: B images, N tokens of an image, C channels, n blocks, m learnt tokens of each, r rank, D channels of a query.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode, configurable
from clouds.errors import UserError
from clouds.modeling.backbone.adapters.base import ADAPTER_REGISTRY, adapted_blocks
from clouds.modeling.backbone.adapters.interchange import fitted
from clouds.modeling.backbone.base import Adapter, SegmentationBackbone
from clouds.modeling.layers import full_precision


@ADAPTER_REGISTRY.register()
class Rein(Adapter):
    """Adds to the patch tokens f behind block i, with the learnt tokens T = A_i B_i (equations 3 to 7):

        S = softmax(f T^T / sqrt(C))
        f + W_f (S[1:] W_T(T[1:]) + f)

    The first learnt token only absorbs attention. W_T and W_f are shared by all blocks, and W_f starts at zero. Linked,
    the learnt tokens also become the decoder's queries: with Q_i = W_Q(T), these are W_L(max_i Q_i, mean_i Q_i, Q_n).
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        rank: int,
        num_tokens: int,
        query_dim: int | None = None,
        skip_blocks: int = 0,
    ) -> None:
        """
        Args:
            backbone: frozen backbone with `tokens`; a hook is added to each block.
            rank: r, rank of the learnt tokens of a block.
            num_tokens: m, number of learnt tokens of a block.
            query_dim: D, channels of the decoder's queries; None = they are not linked.
            skip_blocks: number of blocks at the tower's beginning that are not refined.

        Raises:
            ValueError: the blocks of the backbone map no tokens, or the rank is larger than a side of the tokens.
        """
        super().__init__()
        if backbone.tokens is None:
            kind = type(backbone.tower).__name__
            raise ValueError(f"name is Rein, which refines the tokens of a transformer, and a {kind} has none")
        blocks = adapted_blocks(backbone, skip_blocks)
        width = backbone.tokens.width
        most = min(num_tokens, width)
        if rank > most:
            raise ValueError(
                f"rank is {rank}, but {num_tokens} tokens of {width} channels have a rank of at most {most}"
            )
        self.prefix = backbone.tokens.prefix
        self.tokens_A = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(num_tokens, rank)) for _ in blocks)
        self.tokens_B = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(rank, width)) for _ in blocks)
        self.token_projection = nn.Linear(width, width)  # W_T
        self.feature_projection = nn.Linear(width, width)  # W_f
        nn.init.zeros_(self.feature_projection.weight)
        nn.init.zeros_(self.feature_projection.bias)
        if query_dim is not None:
            self.query_projection = nn.Linear(width, query_dim)  # W_Q
            self.query_fusion = nn.Linear(3 * query_dim, query_dim)  # W_L
        self.linked = query_dim is not None
        for index, block in enumerate(blocks):
            # A bound method, which is copied with the adapter and the tower.
            block.register_forward_hook(partial(self._behind, index))

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: SegmentationBackbone) -> dict[str, Any]:
        adapter, former = cfg.MODEL.ADAPTER, cfg.MODEL.MASK_FORMER
        if adapter.LINK_QUERIES and adapter.TOKENS != former.NUM_OBJECT_QUERIES:
            raise UserError(
                f"MODEL.ADAPTER.TOKENS is {adapter.TOKENS} and MODEL.MASK_FORMER.NUM_OBJECT_QUERIES "
                f"{former.NUM_OBJECT_QUERIES}: they must be equal, or set MODEL.ADAPTER.LINK_QUERIES False."
            )
        return {
            "backbone": backbone,
            "rank": adapter.RANK,
            "num_tokens": adapter.TOKENS,
            "query_dim": former.HIDDEN_DIM if adapter.LINK_QUERIES else None,
            "skip_blocks": adapter.SKIP_BLOCKS,
        }

    def learnt_tokens(self, index: int) -> Tensor:
        """Return T (m, C) of the block with this number among the refined ones."""
        return self.tokens_A[index] @ self.tokens_B[index]

    def forward(self, features: Tensor, index: int) -> Tensor:
        """Refine the patch tokens (B, N, C) behind a block, given its number among the refined ones."""
        tokens = self.learnt_tokens(index)
        similarity = (features @ tokens.T / math.sqrt(tokens.shape[1])).softmax(dim=-1)
        delta = similarity[..., 1:] @ self.token_projection(tokens[1:])
        return features + self.feature_projection(delta + features)

    def _behind(self, index: int, block: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        prefix, patches = output.split([self.prefix, output.shape[1] - self.prefix], dim=1)
        return torch.cat([prefix, self(patches, index)], dim=1)

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all parameters, and the settings that they depend on."""
        return {name: each.detach() for name, each in self.state_dict().items()}, {"adapter_type": "Rein"}

    @torch.no_grad()
    def load_exported(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        """Take the parameters that `exported` returned."""
        if settings.get("adapter_type") != "Rein":
            raise ValueError("its adapter_type is not 'Rein'")
        own = {name: tuple(each.shape) for name, each in self.state_dict().items()}
        self.load_state_dict(fitted(tensors, own))

    @property
    def queries(self) -> Tensor | None:
        """(m, D) float32 position embeddings of the decoder's queries; None if they are not linked."""
        return self._queries() if self.linked else None

    @full_precision
    def _queries(self) -> Tensor:
        each = torch.stack([self.query_projection(self.learnt_tokens(i)) for i in range(len(self.tokens_A))])
        return self.query_fusion(torch.cat([each.amax(dim=0), each.mean(dim=0), each[-1]], dim=-1))
