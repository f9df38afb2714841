"""Multi-scale deformable attention: one signature, several implementations."""

from clouds.modeling.pixel_decoder.ops.reference import ms_deform_attn

__all__ = ["ms_deform_attn"]
