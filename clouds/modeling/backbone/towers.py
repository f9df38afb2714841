"""CLIP's image towers as sequences of stages, and the copy of frozen stages for mixed precision.

Letters: B images, C channels, H x W network input, h x w feature map.
"""

import copy
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.models import ConvNeXt
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from clouds.modeling.linear import maps_channels
from clouds.utils.open_clip import open_clip

SUPPORTED = (ConvNeXt, open_clip.modified_resnet.ModifiedResNet)

_BLOCKS = re.compile("blocks|layer[1-4]")  # names of lists of blocks in towers of timm and in a ResNet
_LINEAR = (r"attn\.(qkv|[qkv]_proj|proj)", r"mlp\.(fc[12]|fc1_[gx])")

Stages = dict[str, Sequence[nn.Module] | nn.Sequential]
"""Modules by name of the feature map that they compute from the map before it; the first take the images."""


def image_tower(clip_model: nn.Module) -> nn.Module:
    """Return the image tower of an open_clip model, without the wrapper that timm's towers have."""
    visual: Any = clip_model.visual
    return getattr(visual, "trunk", visual)


def tower_stages(tower: Any) -> Stages:
    """Return the stages of a ConvNeXt or ModifiedResNet, with the tower's own modules.

    Their maps are `stem` (stride 4, for a ResNet 2), `res2`..`res5` (strides 4, 8, 16, 32) and `clip_vis_dense`, the
    last map before CLIP's pooling (stride 32).
    """
    if isinstance(tower, ConvNeXt):
        levels = {f"res{number}": [stage] for number, stage in enumerate(tower.stages, start=2)}
        return {"stem": list(tower.stem), **levels, "clip_vis_dense": [tower.norm_pre]}
    return {
        "stem": [getattr(tower, f"{kind}{number}") for number in (1, 2, 3) for kind in ("conv", "bn", "act")],
        "res2": [tower.avgpool, tower.layer1],
        "res3": [tower.layer2],
        "res4": [tower.layer3],
        "res5": [tower.layer4],
        "clip_vis_dense": [],
    }


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """Return the residual blocks of a tower of timm or of a ModifiedResNet in the order in which they compute."""
    lists = [part for name, part in tower.named_modules() if _BLOCKS.fullmatch(name.rpartition(".")[2])]
    return [block for part in lists for block in part.children()]


def layer_patterns(blocks: Collection[nn.Module]) -> tuple[str, ...]:
    """Return those of the patterns of linear layers, see `SegmentationBackbone.adapter_patterns`, that blocks have.

    These are the pointwise convolutions of a ConvNeXt, which timm computes as linear layers, or as convolutions in the
    smallest models, or the projections of attention and MLP in a transformer, with one or several layers for queries,
    keys and values.
    """
    parts = [item for block in blocks for item in block.named_modules()]
    names = {name for name, part in parts if isinstance(part, nn.Linear) or maps_channels(part)}
    return tuple(pattern for pattern in _LINEAR if any(re.fullmatch(pattern, name) for name in names))


def feature_maps(stages: Stages, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """Compute feature maps.

    Args:
        stages: stages of a tower.
        images: (B, 3, H, W), normalized.
        names: names of the maps to return; others are freed.

    Returns:
        Maps (B, C, h, w) by name.
    """
    maps, x = {}, images
    for name, modules in stages.items():
        for module in modules:
            x = module(x)
        if name in names:
            maps[name] = x
    return maps


def bfloat16_copy(stages: Stages) -> Stages:
    """Copy frozen stages to bfloat16, with batch norms folded into convolutions and weights stored channels last.

    The copy takes float32 images: its first layer stays float32, since bfloat16 cannot tell neighboring values of a
    pixel apart. Norms are folded before weights are cast, so that their statistics are not rounded.

    Args:
        stages: stages in evaluation mode.
    """
    copies = {name: nn.Sequential(*copy.deepcopy(list(modules))) for name, modules in stages.items()}
    for stage in copies.values():
        fold_batch_norms(stage)
    stem = next(iter(copies.values()))
    first = FirstLayer(stem[0])
    stem[0] = nn.Identity()
    for stage in copies.values():
        stage.bfloat16().to(memory_format=torch.channels_last)
    stem[0] = first
    return dict(copies)


class FirstLayer(nn.Module):
    """Layer that computes in float32 for layers in bfloat16."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 to bfloat16."""
        return self.layer(x).to(torch.bfloat16)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each frozen batch norm into the convolution that is registered before it, in place.

    The modules of a ModifiedResNet are registered in the order in which they compute.
    """
    for parent in list(module.modules()):
        for (name, convolution), (next_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, next_name, nn.Identity())
