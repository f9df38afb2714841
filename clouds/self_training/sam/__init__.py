"""SAM (Kirillov et al., ICCV 2023): several back ends behind one interface, in `SAM_REGISTRY`."""

from clouds.self_training.sam.base import SAM_REGISTRY, ClassPrompt, Embedding, Sam
from clouds.self_training.sam.build import build_sam
from clouds.self_training.sam.cache import CachedSam

__all__ = ["SAM_REGISTRY", "CachedSam", "ClassPrompt", "Embedding", "Sam", "build_sam"]
