"""Backbones by their published names."""

from clouds.modeling.backbone.clip import CLIP, TrainableCLIP

__all__ = ["CLIP", "TrainableCLIP"]
