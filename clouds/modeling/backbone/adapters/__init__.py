"""Adapters of frozen towers, registered by the names of their papers."""

from clouds.modeling.backbone.adapters.base import ADAPTER_REGISTRY, build_adapter
from clouds.modeling.backbone.adapters.lora import LoRA
from clouds.modeling.backbone.adapters.rein import Rein
from clouds.modeling.backbone.adapters.soma import SoMA

__all__ = ["ADAPTER_REGISTRY", "LoRA", "Rein", "SoMA", "build_adapter"]
