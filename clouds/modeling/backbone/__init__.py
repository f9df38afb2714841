"""Backbones, registered by their published names, and their contract."""

from clouds.modeling.backbone.base import SegmentationBackbone, TextTower
from clouds.modeling.backbone.clip import CLIP, TrainableCLIP

__all__ = ["CLIP", "SegmentationBackbone", "TextTower", "TrainableCLIP"]
