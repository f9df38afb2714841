"""The head of transformers' Mask2Former with our settings and our weights, which have other names there."""

from torch import Tensor, nn
from transformers import ConvNextConfig, Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from clouds.d2 import CfgNode


def transformers_config(cfg: CfgNode) -> Mask2FormerConfig:
    """Return our settings of the head. The backbone of the config is small and is not used."""
    former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
    stages = [f"stage{number}" for number in range(1, 5)]
    return Mask2FormerConfig(
        backbone_config=ConvNextConfig(depths=[1] * 4, hidden_sizes=[8] * 4, out_features=stages),
        num_labels=head.NUM_CLASSES,
        feature_size=head.CONVS_DIM,
        mask_feature_size=head.MASK_DIM,
        hidden_dim=former.HIDDEN_DIM,
        encoder_feedforward_dim=head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
        encoder_layers=head.TRANSFORMER_ENC_LAYERS,
        decoder_layers=former.DEC_LAYERS,
        num_attention_heads=former.NHEADS,
        dim_feedforward=former.DIM_FEEDFORWARD,
        dropout=former.DROPOUT,
        num_queries=former.NUM_OBJECT_QUERIES,
        class_weight=former.CLASS_WEIGHT,
        mask_weight=former.MASK_WEIGHT,
        dice_weight=former.DICE_WEIGHT,
        no_object_weight=former.NO_OBJECT_WEIGHT,
        train_num_points=former.TRAIN_NUM_POINTS,
        oversample_ratio=former.OVERSAMPLE_RATIO,
        importance_sample_ratio=former.IMPORTANCE_SAMPLE_RATIO,
    )


# Parts of our names and of theirs, in the order of replacement.
_RENAMED = (
    ("pixel_decoder.transformer.encoder.layers.", "model.pixel_level_module.decoder.encoder.layers."),
    ("pixel_decoder.transformer.level_embed", "model.pixel_level_module.decoder.level_embed"),
    ("pixel_decoder.input_proj.", "model.pixel_level_module.decoder.input_projections."),
    ("pixel_decoder.mask_features.", "model.pixel_level_module.decoder.mask_projection."),
    ("pixel_decoder.", "model.pixel_level_module.decoder."),
    ("predictor.class_embed.", "class_predictor."),
    ("predictor.query_feat.", "model.transformer_module.queries_features."),
    ("predictor.query_embed.", "model.transformer_module.queries_embedder."),
    ("predictor.level_embed.", "model.transformer_module.level_embed."),
    ("predictor.input_proj.", "model.transformer_module.input_projections."),
    ("predictor.decoder_norm.", "model.transformer_module.decoder.layernorm."),
    ("predictor.", "model.transformer_module.decoder."),
)
_ENCODER = (("norm1", "self_attn_layer_norm"), ("norm2", "final_layer_norm"), ("linear1", "fc1"), ("linear2", "fc2"))
_DECODER = {
    "transformer_cross_attention_layers": {"multihead_attn": "cross_attn", "norm": "cross_attn_layer_norm"},
    "transformer_self_attention_layers": {"self_attn": "self_attn", "norm": "self_attn_layer_norm"},
    "transformer_ffn_layers": {"linear1": "fc1", "linear2": "fc2", "norm": "final_layer_norm"},
}


def load_our_head(model: Mask2FormerForUniversalSegmentation, head: nn.Module) -> None:
    """Copy the weights of our head into theirs; every parameter of theirs gets one."""
    state = {theirs: value for name, tensor in head.state_dict().items() for theirs, value in renamed(name, tensor)}
    state |= {"criterion.empty_weight": model.criterion.empty_weight}
    model.load_state_dict(state)


def renamed(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return one of our weights under their names; a joint projection gives three."""
    for ours, theirs in _RENAMED:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    if ".decoder.encoder.layers." in name:
        for ours, theirs in _ENCODER:
            name = name.replace(f".{ours}.", f".{theirs}.")
    if name.startswith("model.pixel_level_module.decoder.") and (".adapter_" in name or ".layer_" in name):
        # A convolution with its norm is a module of ours with parameter names of its own, and a Sequential of theirs.
        name = name.replace(".norm.", ".1.") if ".norm." in name else name.removesuffix("weight") + "0.weight"
    if ".mask_embed.layers." in name:
        name = name.replace(".mask_embed.layers.", ".mask_predictor.mask_embedder.")
        *first, number, kind = name.split(".")
        name = ".".join([*first, number, "0", kind])
    for layers, parts in _DECODER.items():
        start = f"model.transformer_module.decoder.{layers}."
        if name.startswith(start):
            number, part, rest = name.removeprefix(start).split(".", 2)
            name = f"model.transformer_module.decoder.layers.{number}.{parts[part]}.{rest}"
    if ".self_attn.in_proj_" in name:  # theirs is joint for the cross-attention only
        pieces = zip("qkv", tensor.chunk(3), strict=True)
        return [(name.replace("in_proj_", f"{letter}_proj."), piece) for letter, piece in pieces]
    return [(name, tensor)]
