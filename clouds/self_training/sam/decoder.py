"""segment_anything's mask decoder, arranged for many prompts of one image.

The modules and weights are those of the package, and the results agree with its own up to the rounding of float32. It
takes a third of the time on a CPU because
* the image is not repeated for each prompt, so that the first layer reads one copy of it;
* attention between T tokens and N pixels, T much smaller than N, projects the tokens only: q . (W x) = (W^T q) . x;
* the transposed convolutions, whose kernel is their stride, are linear layers on pixels: no feature map is rearranged;
* only the mask of the highest predicted quality is computed.

Letters: P prompts, n points of a prompt, T tokens of a prompt, N = h x w pixels of an embedding, C channels, H heads, d
channels of a head.
"""

import math

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling import Sam as SamModules
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor
from torch.nn import functional as F


def pixel_positions(encoder: PromptEncoder) -> Tensor:
    """Return the positions of the pixels of an embedding, (1, N, C)."""
    return encoder.get_dense_pe().flatten(2).mT.contiguous()


def decode_best(
    network: SamModules, features: Tensor, positions: Tensor, points: Tensor, logits: Tensor | None
) -> Tensor:
    """Decode prompts of one image into the mask logits with the highest predicted quality.

    Args:
        network: prompt encoder and mask decoder; frozen.
        features: (C, h, w) embedding of the image.
        positions: (1, N, C), see `pixel_positions`.
        points: (P, n, 2) x, y in pixels of the network's input, all inside the object.
        logits: (P, 1, 4 h, 4 w) mask logits of an earlier pass; None in the first pass.

    Returns:
        (P, 4 h, 4 w).
    """
    encoder, decoder = network.prompt_encoder, network.mask_decoder
    earlier = encoder.no_mask_embed.weight[:, :, None, None] if logits is None else encoder.mask_downscaling(logits)
    pixels = (features + earlier).flatten(2).mT.contiguous()
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(points), -1, -1)
    tokens = torch.cat([outputs, _embed(encoder, points)], dim=1)
    tokens, pixels = _attend(decoder.transformer, tokens, pixels, positions)
    # Output 0 is the quality, output 1 the mask for prompts without ambiguity, which is not used.
    best = decoder.iou_prediction_head(tokens[:, 0])[:, 1:].argmax(dim=1)
    networks = list(decoder.output_hypernetworks_mlps)[1:]
    weights = torch.stack([each(tokens[:, number]) for number, each in enumerate(networks, start=2)], dim=1)
    weights = weights[torch.arange(len(points), device=points.device), best]
    return _masks(decoder, pixels, weights, (features.shape[1], features.shape[2]))


def _embed(encoder: PromptEncoder, points: Tensor) -> Tensor:
    """Embed points inside objects (P, n, 2) and the padding point that the package adds: (P, n + 1, C)."""
    centers = encoder.pe_layer.forward_with_coords(points + 0.5, encoder.input_image_size)
    padding = encoder.not_a_point_embed.weight.expand(len(points), 1, -1)
    return torch.cat([centers + encoder.point_embeddings[1].weight, padding], dim=1)


def _attend(transformer: TwoWayTransformer, prompt: Tensor, pixels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange tokens (P, T, C) and pixels (1 or P, N, C); the pixels become (P, N, C)."""
    tokens = prompt
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            located = tokens + prompt
            tokens = tokens + layer.self_attn(q=located, k=located, v=tokens)
        tokens = layer.norm1(tokens)
        places = pixels + positions
        tokens = layer.norm2(tokens + _read(layer.cross_attn_token_to_image, tokens + prompt, places, pixels))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        change = _write(layer.cross_attn_image_to_token, places, tokens + prompt, tokens)
        pixels = layer.norm4(change.add_(pixels))
    tokens = tokens + _read(transformer.final_attn_token_to_image, tokens + prompt, pixels + positions, pixels)
    return transformer.norm_final_attn(tokens), pixels


def _read(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from tokens (P, T, C) to pixels (1 or P, N, C).

    The bias of the keys adds the same number to all logits of a query, and softmax ignores it.
    """
    heads, width = attention.num_heads, attention.internal_dim // attention.num_heads
    query = _split(attention.q_proj(query), heads) / math.sqrt(width)
    query = query @ attention.k_proj.weight.unflatten(0, (heads, width))  # (P, H, T, C)
    shares = _product(query.flatten(1, 2), key).softmax(dim=-1)  # (P, H T, N)
    mixed = _product(shares, value.mT).unflatten(1, (heads, -1))  # (P, H, T, C)
    mixed = mixed @ attention.v_proj.weight.unflatten(0, (heads, width)).mT
    return attention.out_proj(mixed.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _write(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from pixels (1 or P, N, C) to tokens (P, T, C)."""
    heads, width = attention.num_heads, attention.internal_dim // attention.num_heads
    key = _split(attention.k_proj(key), heads) / math.sqrt(width)
    weight, bias = (each.unflatten(0, (heads, width)) for each in (attention.q_proj.weight, attention.q_proj.bias))
    logits = _product((key @ weight).flatten(1, 2), query).unflatten(1, (heads, -1))  # (P, H, T, N)
    shares = logits.add_(key @ bias[:, :, None]).softmax(dim=2)
    value = _split(attention.v_proj(value), heads) @ attention.out_proj.weight.unflatten(1, (heads, width)).permute(
        1, 2, 0
    )  # (P, H, T, C)
    return _product(shares.flatten(1, 2).mT, value.flatten(1, 2).mT, attention.out_proj.bias)


def _masks(decoder: MaskDecoder, pixels: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Upscale pixels (P, N, C) by four and multiply them by the weights (P, C / 8) of a mask."""
    first, norm, activation, second, last_activation = decoder.output_upscaling
    x = _upscale(first, pixels)
    x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = last_activation(_upscale(second, x))
    masks = (x.flatten(1, -2) @ weights[:, :, None]).view(len(pixels), *size, 2, 2, 2, 2)
    return masks.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(pixels), 4 * size[0], 4 * size[1])


def _upscale(layer: torch.nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Upscale pixels (..., C) by two: (..., 4, channels), the four in the order of rows and columns."""
    assert layer.bias is not None
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return _linear(x, weight, layer.bias.repeat(4)).unflatten(-1, (4, -1))


def _split(x: Tensor, heads: int) -> Tensor:
    """(P, T, H d) -> (P, H, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a b^T + bias for each prompt: (P, R, K), (1 or P, M, K) -> (P, R, M)."""
    if len(b) == 1:
        return _linear(a, b[0], bias)
    if _onednn(a):
        return torch.stack([_linear(x, y, bias) for x, y in zip(a, b, strict=True)])
    return a @ b.mT if bias is None else torch.baddbmm(bias, a, b.mT)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear`, on a CPU by oneDNN: MKL, torch's default, takes more than twice as long on AMD."""
    if _onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.backends.mkldnn.is_available()
