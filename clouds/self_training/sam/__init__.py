"""SAM (Kirillov et al., ICCV 2023) in its several makes, behind one interface."""

from clouds.self_training.sam.base import Embedding, Sam
from clouds.self_training.sam.build import build_sam
from clouds.self_training.sam.cache import CachedSam

__all__ = ["CachedSam", "Embedding", "Sam", "build_sam"]
