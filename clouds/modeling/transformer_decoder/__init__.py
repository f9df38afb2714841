"""Transformer decoders, registered by their published names."""

from clouds.modeling.transformer_decoder.decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    MaskedTransformerDecoder,
    build_transformer_decoder,
)

__all__ = ["TRANSFORMER_DECODER_REGISTRY", "MaskedTransformerDecoder", "build_transformer_decoder"]
