"""LoRA: a trained difference of low rank for the linear layers of a frozen tower.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022, section 4.1.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import CfgNode, configurable
from clouds.modeling.backbone.adapters.base import ADAPTER_REGISTRY, adapted_layers
from clouds.modeling.backbone.adapters.interchange import fitted
from clouds.modeling.backbone.base import Adapter, SegmentationBackbone
from clouds.modeling.linear import OneDNNLinear
from clouds.utils.values import is_number

_KEY = "base_model.model.{}.lora_{}.weight"  # of the factor of a layer in a file of peft

# Settings of peft's variants of LoRA that compute something else.
_VARIANTS = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "layer_replication")


class LoRALinear(OneDNNLinear):
    """Frozen linear layer with a trained difference of rank r: ``W x + b + scale * B (A x)``.

    An existing layer becomes one by `adapt`: its weight and bias stay the same objects under the same names.

    Attributes:
        lora_A: A, (r, in_features).
        lora_B: B, (out_features, r).
        scale: factor on B A.
    """

    uses_onednn = False
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scale: float

    @classmethod
    def adapt(cls, layer: nn.Module, rank: int, scale: float) -> Self:
        """Change a linear layer in place into one with a difference, which is 0, and return it."""
        uses_onednn = isinstance(layer, OneDNNLinear)
        layer.__class__ = cls
        assert isinstance(layer, cls)
        layer.uses_onednn, layer.scale = uses_onednn, scale
        layer.start(rank)
        return layer

    @property
    def ordinary(self) -> type[nn.Module]:
        """Class of the layer without a difference."""
        return OneDNNLinear if self.uses_onednn else nn.Linear

    def start(self, rank: int) -> None:
        """Create the factors: A random, Kaiming-uniform as in peft, and B zero."""
        self.lora_A = nn.Parameter(self.weight.new_empty(rank, self.weight.shape[1]))
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return super().forward(input) + self.difference(input)

    def difference(self, x: Tensor) -> Tensor:
        """Return what the adapter adds to the output for an input (..., in_features)."""
        return self.product(self.product(x, self.lora_A), self.lora_B) * self.scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (B, A), whose product times the scale is the difference of the weights."""
        return self.lora_B.detach(), self.lora_A.detach()

    @torch.no_grad()
    def set_factors(self, b: Tensor, a: Tensor) -> None:
        """Take factors that `factors` returned."""
        self.lora_B.copy_(b)
        self.lora_A.copy_(a)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the difference to the weight, as a new tensor, and become an ordinary linear layer."""
        b, a = self.factors()
        merged = self.weight.double() + self.scale * (b.double() @ a.double()).view_as(self.weight)
        self.weight = nn.Parameter(merged.to(self.weight.dtype), requires_grad=False)
        self.remove()
        layer: nn.Module = self
        layer.__class__ = self.ordinary
        del self.uses_onednn, self.scale

    def remove(self) -> None:
        """Delete the factors."""
        del self.lora_A, self.lora_B


class LoRAPointwise(LoRALinear):
    """Frozen pointwise convolution, a linear layer of (B, in, H, W), with a trained difference."""

    @property
    def ordinary(self) -> type[nn.Module]:
        return nn.Conv2d

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) by (D, C) or (D, C, 1, 1) to (B, D, H, W)."""
        return F.conv2d(x, weight.view(*weight.shape[:2], 1, 1), bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, rank={len(self.lora_A)}"


@ADAPTER_REGISTRY.register()
class LoRA(Adapter):
    """LoRA in the linear layers of a tower's blocks.

    Attributes:
        layers: adapted layers by their names in the tower.
    """

    LINEAR: ClassVar[type[LoRALinear]] = LoRALinear
    POINTWISE: ClassVar[type[LoRALinear]] = LoRAPointwise

    @configurable
    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        rank: int,
        alpha: float,
        patterns: Sequence[str] = (),
        skip_blocks: int = 0,
    ) -> None:
        """
        Args:
            backbone: frozen backbone, whose layers are changed in place.
            rank: r, rank of each difference.
            alpha: numerator of the scale alpha / r.
            patterns: regular expressions for the names of layers inside a block; default: the backbone's own.
            skip_blocks: number of blocks at the tower's beginning that stay as they are.

        Raises:
            ValueError: a pattern matches no layer, or the rank is larger than a side of a layer.
        """
        super().__init__()
        self.rank = rank
        patterns = tuple(patterns) or backbone.adapter_patterns
        if not patterns:
            kind = type(backbone.tower).__name__
            raise ValueError(f"patterns is empty, and a {kind} declares no layers that can be adapted")
        layers = adapted_layers(backbone, patterns, skip_blocks)
        for name, layer in layers.items():
            channels_out, channels_in = layer.get_parameter("weight").shape[:2]
            if rank > min(channels_in, channels_out):
                raise ValueError(
                    f"rank is {rank}, but {name} maps {channels_in} to {channels_out} channels, and a rank is at most "
                    f"{min(channels_in, channels_out)} there"
                )
        # A dict of modules registers none of them: their tensors have their places in the tower.
        self.layers = {name: self.adapted(layer, alpha) for name, layer in layers.items()}

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: SegmentationBackbone) -> dict[str, Any]:
        adapter = cfg.MODEL.ADAPTER
        return {
            "backbone": backbone,
            "rank": adapter.RANK,
            "alpha": adapter.ALPHA,
            "patterns": adapter.PATTERNS,
            "skip_blocks": adapter.SKIP_BLOCKS,
        }

    def adapted(self, layer: nn.Module, alpha: float) -> LoRALinear:
        """Change a layer in place, and return it."""
        kind = self.POINTWISE if isinstance(layer, nn.Conv2d) else self.LINEAR
        return kind.adapt(layer, self.rank, alpha / self.rank)

    def merge(self) -> None:
        """Add the differences to the weights of the tower, whose layers become ordinary ones."""
        for layer in self.layers.values():
            layer.merge()

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the factors of all layers, and the settings with which peft adds them to the same model of timm."""
        tensors = self._named_factors()
        first = next(iter(self.layers.values()))
        rank = len(first.factors()[1])
        settings = {"peft_type": "LORA", "r": rank, "lora_alpha": first.scale * rank, "target_modules": [*self.layers]}
        return tensors, {**settings, "lora_dropout": 0.0, "bias": "none", "inference_mode": True}

    def load_exported(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        """Take the factors that `exported` returned, or those of a LoRA of peft with any scale."""
        if settings.get("peft_type") != "LORA":
            raise ValueError(f"its peft_type is {settings.get('peft_type')!r}, not 'LORA'")
        if variants := [key for key in _VARIANTS if settings.get(key)]:
            raise ValueError(f"it is a LoRA with {variants[0]}, which is not known here")
        rank: Any = settings.get("r")
        alpha: Any = settings.get("lora_alpha")
        wanted = len(next(iter(self.layers.values())).factors()[1])
        if rank != wanted or not is_number(alpha):
            raise ValueError(f"its rank is {rank}, and {wanted} here")
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        found = fitted(tensors, {name: tuple(each.shape) for name, each in self._named_factors().items()})
        for name, layer in self.layers.items():
            b, a = (found[_KEY.format(name, factor)].flatten(1) for factor in ("B", "A"))
            layer.set_factors(b * (scale / layer.scale), a)

    def _named_factors(self) -> dict[str, Tensor]:
        """Return all factors by their names in a file of peft, those of a convolution as kernels."""
        return {
            _KEY.format(name, factor): values.unflatten(1, (-1, *layer.weight.shape[2:]))
            for name, layer in self.layers.items()
            for factor, values in zip("BA", layer.factors(), strict=True)
        }
