"""SoMA: trained factors that start as the smallest singular parts of the weights of a frozen tower.

Yun et al., *SoMA: Singular Value Decomposed Minor Components Adaptation for Domain Generalizable Representation
Learning*, CVPR 2025, section 4.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode, configurable
from clouds.modeling.backbone.adapters.base import ADAPTER_REGISTRY
from clouds.modeling.backbone.adapters.lora import LoRA, LoRALinear, LoRAPointwise
from clouds.modeling.backbone.base import SegmentationBackbone


class SoMALinear(LoRALinear):
    """Frozen linear layer W whose r smallest singular parts are trained: ``W x + b + B (A x) - B0 (A0 x)``.

    B A starts as B0 A0, the sum of these parts, so that W - B0 A0 is the frozen residual. W itself stays as it is. The
    frozen copies are buffers that checkpoints hold, because another machine could find other singular vectors.

    A decomposition takes seconds, and often a checkpoint follows. So all factors are 0, which gives equal outputs,
    until weights are loaded or the training starts, see `decompose`.

    Attributes:
        initial_A: A0, (r, in_features).
        initial_B: B0, (out_features, r).
        is_started: whether `decompose` has been called.
    """

    initial_A: Tensor
    initial_B: Tensor
    is_started: bool

    def start(self, rank: int) -> None:
        """Create the factors, which are 0."""
        self.is_started = False
        self.lora_A = nn.Parameter(self.weight.new_zeros(rank, self.weight.shape[1]))
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.weight.shape[0], rank))
        self.register_buffer("initial_A", torch.zeros_like(self.lora_A))
        self.register_buffer("initial_B", torch.zeros_like(self.lora_B))

    @torch.no_grad()
    def decompose(self) -> None:
        """Compute B = U sqrt(S) and A = sqrt(S) V^T of the r smallest singular values, unless there are factors."""
        self.is_started = True
        if self.weight.is_meta or self.initial_B.any():
            return
        b, a = smallest_singular_parts(self.weight.flatten(1), len(self.initial_A))
        for own, values in ((self.lora_B, b), (self.initial_B, b), (self.lora_A, a), (self.initial_A, a)):
            own.copy_(values)

    def difference(self, x: Tensor) -> Tensor:
        """Return what the adapter adds to the output for an input (..., in_features)."""
        if not self.is_started and torch.is_grad_enabled():  # the gradient of factors that are 0 is 0
            self.decompose()
        # Subtracted from one another before they meet W x: at the start they cancel exactly, in any precision.
        return super().difference(x) - self.product(self.product(x, self.initial_A), self.initial_B)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return factors of rank 2r, (B, -B0) and (A, A0), whose product is the difference of the weights."""
        b, a = super().factors()
        return torch.cat([b, -self.initial_B], dim=1), torch.cat([a, self.initial_A])

    @torch.no_grad()
    def set_factors(self, b: Tensor, a: Tensor) -> None:
        """Take factors of rank 2r that `factors` returned."""
        (trained_b, negative_b), (trained_a, initial_a) = b.chunk(2, dim=1), a.chunk(2)
        super().set_factors(trained_b, trained_a)
        self.initial_B.copy_(-negative_b)
        self.initial_A.copy_(initial_a)

    def remove(self) -> None:
        """Delete the factors and their copies."""
        super().remove()
        del self.initial_A, self.initial_B, self.is_started


class SoMAPointwise(SoMALinear, LoRAPointwise):
    """Frozen pointwise convolution whose r smallest singular parts are trained."""


@ADAPTER_REGISTRY.register()
class SoMA(LoRA):
    """SoMA in the linear layers of a tower's blocks."""

    LINEAR = SoMALinear
    POINTWISE = SoMAPointwise

    @configurable
    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        rank: int,
        patterns: Sequence[str] = (),
        skip_blocks: int = 0,
    ) -> None:
        """
        Args:
            backbone: frozen backbone, whose layers are changed in place.
            rank: r, number of singular values.
            patterns: regular expressions for the names of layers inside a block; default: the backbone's own.
            skip_blocks: number of blocks at the tower's beginning that stay as they are.

        Raises:
            ValueError: a pattern matches no layer, or the rank is larger than a side of a layer.
        """
        super().__init__(backbone=backbone, rank=rank, alpha=rank, patterns=patterns, skip_blocks=skip_blocks)

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: SegmentationBackbone) -> dict[str, Any]:
        return {key: value for key, value in super().from_config(cfg, backbone).items() if key != "alpha"}

    def train(self, mode: bool = True) -> Self:
        """Set the mode. The training mode computes the factors, unless they have been loaded."""
        for layer in self.layers.values() if mode else ():
            assert isinstance(layer, SoMALinear)
            layer.decompose()
        return super().train(mode)


def smallest_singular_parts(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of the smallest singular parts of a matrix W = U S V^T.

    Args:
        weight: W, (out, in).
        rank: r, number of singular values.

    Returns:
        B = U sqrt(S), (out, r), and A = sqrt(S) V^T, (r, in), with the dtype of the matrix.
    """
    wide = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().T
    # The eigenvectors of W W^T are U, in ascending order of S^2. In float64 the squares lose nothing of a float32
    # matrix, and this takes a tenth of the time of a singular value decomposition.
    left = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, :rank]
    right = left.T @ wide  # S V^T
    root = right.norm(dim=1, keepdim=True).sqrt()
    left, right = left * root.T, right / root.clamp_min(torch.finfo(root.dtype).tiny)
    b, a = (left, right) if wide.shape == weight.shape else (right.T, left.T)
    return b.to(weight.dtype).contiguous(), a.to(weight.dtype).contiguous()
