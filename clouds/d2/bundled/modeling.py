"""Registries, the functions that build models from them, and the interface of a backbone."""

from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import nn

from .config import CfgNode

META_ARCH_REGISTRY = Registry("META_ARCH")  # called with (cfg); returns the model
BACKBONE_REGISTRY = Registry("BACKBONE")  # called with (cfg, ShapeSpec of the image); returns a Backbone
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")  # called with (cfg, {name of a feature map: ShapeSpec})


@dataclass
class ShapeSpec:
    """Shape of a feature map as far as it is known before the forward pass; `stride` is in input pixels."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Backbone(nn.Module, metaclass=ABCMeta):
    """Network that maps an image tensor (N, 3, H, W) to a dict of named feature maps."""

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Return the feature maps by name."""

    @abstractmethod
    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every feature map by name."""


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the architecture `cfg.MODEL.META_ARCHITECTURE` on `cfg.MODEL.DEVICE`; loads no checkpoint."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    model.to(torch.device(cfg.MODEL.DEVICE))
    return model


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone `cfg.MODEL.BACKBONE.NAME`; by default, images have one channel per `cfg.MODEL.PIXEL_MEAN`."""
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} is not a Backbone"
    return backbone


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the head `cfg.MODEL.SEM_SEG_HEAD.NAME` for feature maps of the given shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)
