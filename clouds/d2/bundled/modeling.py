"""Registries, the builders that look names up in them, and the interface of a backbone."""

from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import nn

from .config import CfgNode

META_ARCH_REGISTRY = Registry("META_ARCH")  # called with (cfg), returns the whole model
BACKBONE_REGISTRY = Registry("BACKBONE")  # called with (cfg, ShapeSpec of the image), returns a Backbone
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")  # called with (cfg, {feature: ShapeSpec})


@dataclass
class ShapeSpec:
    """What is known of a feature map before it exists; `stride` counts input pixels per feature pixel."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Backbone(nn.Module, metaclass=ABCMeta):
    """Image tensor (N,3,H,W) -> dict of named feature maps."""

    # The default `output_shape` reads these; a subclass fills them in or overrides the method.
    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Feature name -> feature map."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this; 0 means any."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Optional `size_divisibility` and `square_size`, as `ImageList.from_tensors` takes them."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Feature name -> its channels and stride."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def build_model(cfg: CfgNode) -> nn.Module:
    """The model `cfg.MODEL.META_ARCHITECTURE`, on `cfg.MODEL.DEVICE`, without weights from a file."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    model.to(torch.device(cfg.MODEL.DEVICE))
    return model


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """The backbone `cfg.MODEL.BACKBONE.NAME`; its input has one channel per entry of `cfg.MODEL.PIXEL_MEAN`."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} is not a Backbone"
    return backbone


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The head `cfg.MODEL.SEM_SEG_HEAD.NAME` for features of these shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)
