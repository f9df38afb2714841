"""Pixel decoders, registered by their published names."""

from clouds.modeling.pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder

__all__ = ["MSDeformAttnPixelDecoder"]
