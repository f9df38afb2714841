"""Backbones, registered by their published names, and their contract."""

from clouds.modeling.backbone.base import Adapter, SegmentationBackbone, TextTower, TokenLayout, backbone_of
from clouds.modeling.backbone.clip import CLIP, TrainableCLIP
from clouds.modeling.backbone.timm_towers import TimmTower, TrainableTimmTower

__all__ = [
    "CLIP",
    "Adapter",
    "SegmentationBackbone",
    "TextTower",
    "TimmTower",
    "TokenLayout",
    "TrainableCLIP",
    "TrainableTimmTower",
    "backbone_of",
]
