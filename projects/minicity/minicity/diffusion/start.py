"""Where the autoencoder begins: as the best linear code of pictures that its layers can compute.

From random weights it takes thousands of updates to find out that a picture has colours. So the shortcuts around its
residual blocks, which are linear, are set to what statistics know already: on the way in the principal components of
squares of pixels, on the way out their colour, smoothly interpolated. The residual blocks begin at zero and learn all
that is not linear.

Legend: N pictures of H x W pixels, L latent channels, h x w latents of a picture.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REFERENCE = 6.0
"""What two channels always hold, one of them negated. The last norm of a coder divides by the deviation over all of its
channels, which would lose how bright and how rich in contrast a picture is; these two keep it nearly constant."""

LOG_VARIANCE = -6.0


@torch.no_grad()
def start_linear(autoencoder: Any, images: Tensor) -> None:
    """Set the weights of a fresh ``AutoencoderKL``; its latents begin with mean 0 and deviation 1.

    Args:
        autoencoder: on the CPU. Both its first and its last level must differ from their neighbours in width.
        images: (N, 3, H, W), -1..1; some hundred.
    """
    for module in autoencoder.modules():
        if type(module).__name__ == "ResnetBlock2D":
            _silence(module.conv2)
        elif type(module).__name__ == "Attention":
            _silence(module.to_out[0])
    for name in ("quant_conv", "post_quant_conv"):
        layer = getattr(autoencoder, name)
        _keep(layer, layer.out_channels)
    latents = _start_encoder(autoencoder.encoder, images, autoencoder.config.latent_channels)
    _start_decoder(autoencoder, images, latents)


def _start_encoder(encoder: Any, images: Tensor, channels: int) -> Tensor:
    """Returns: (N, L, h, w), what the encoder makes of the pictures from now on, nearly."""
    _keep(encoder.conv_in, 3)
    found = images
    for block in encoder.down_blocks[:-1]:
        if block.resnets[0].conv_shortcut is not None:
            _keep(block.resnets[0].conv_shortcut, found.shape[1])
        # Of a 3x3 kernel at stride 2, padded at the right and at the bottom, the first 2x2 taps see a square alone.
        layer = block.downsamplers[0].conv
        squares = F.pixel_unshuffle(found, 2)
        basis = _principal(squares)[: layer.out_channels]
        kernel = basis.view(len(basis), found.shape[1], 2, 2)
        layer.weight[: len(basis)] = 0
        layer.weight[: len(basis), : found.shape[1], :2, :2] = kernel
        layer.bias[: len(basis)] = 0
        found = F.conv2d(squares, basis[:, :, None, None])

    mean, deviation = found.mean(dim=(0, 2, 3)), found.std(dim=(0, 2, 3)).clamp(min=1e-4)
    layer = encoder.down_blocks[-1].resnets[0].conv_shortcut
    rest = min(found.shape[1], layer.out_channels - channels - 2)
    _silence(layer)
    for row in range(channels):
        _pair(layer, row, row + channels, row, float(1 / deviation[row]), float(-mean[row] / deviation[row]))
    for place in range(channels, rest):
        layer.weight[place + channels, place] = 0.3 / deviation[place]
    _refer(layer)

    layer = encoder.conv_out
    _silence(layer)
    scale = _scale_before(encoder.conv_norm_out, encoder, images[:8])
    for row in range(channels):
        _read_pair(layer, row, row, row + channels, scale)
    layer.bias[channels:] = LOG_VARIANCE
    return (found[:, :channels] - mean[:channels, None, None]) / deviation[:channels, None, None]


def _start_decoder(autoencoder: Any, images: Tensor, latents: Tensor) -> None:
    decoder, channels = autoencoder.decoder, latents.shape[1]
    _keep(decoder.conv_in, channels)
    *blocks, last = decoder.up_blocks
    tent = torch.tensor([0.25, 0.5, 0.25])
    for block in blocks:
        if block.resnets[0].conv_shortcut is not None:
            _keep(block.resnets[0].conv_shortcut, channels)
        layer = block.upsamplers[0].conv
        _keep(layer, channels)
        for row in range(channels):
            layer.weight[row, row] = tent[:, None] * tent

    # The mean colour of each square, as far as the latents tell it.
    colours = F.adaptive_avg_pool2d(images, (latents.shape[2], latents.shape[3])).permute(0, 2, 3, 1).reshape(-1, 3)
    known = latents.permute(0, 2, 3, 1).reshape(-1, channels)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    solution = torch.linalg.lstsq(known, colours).solution.T
    layer = last.resnets[0].conv_shortcut
    for row in range(3):
        for place, sign in ((row, 1), (row + 3, -1)):
            layer.weight[place] = 0
            layer.weight[place, :channels, 0, 0] = sign * solution[row, :-1]
            layer.bias[place] = sign * solution[row, -1]
    _refer(layer)

    _silence(decoder.conv_out)
    scale = _scale_before(decoder.conv_norm_out, decoder, latents[:8])
    for row in range(3):
        _read_pair(decoder.conv_out, row, row, row + 3, scale)


def _silence(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _keep(layer: Any, channels: int) -> None:
    """The first output channels become the first input channels; the others stay as they are, random."""
    middle = layer.kernel_size[0] // 2
    layer.weight[:channels] = 0
    layer.bias[:channels] = 0
    for row in range(channels):
        layer.weight[row, row, middle, middle] = 1


def _pair(layer: Any, plus: int, minus: int, source: int, factor: float, bias: float) -> None:
    """Two outputs of a 1x1 convolution: factor * source + bias, and the negative of that."""
    for row, sign in ((plus, 1), (minus, -1)):
        layer.weight[row, source] = sign * factor
        layer.bias[row] = sign * bias


def _read_pair(layer: Any, row: int, plus: int, minus: int, scale: float) -> None:
    """SiLU comes before: what is lost of x is there of -x, for silu(x) - silu(-x) = x."""
    middle = layer.kernel_size[0] // 2
    layer.weight[row, plus, middle, middle] = scale
    layer.weight[row, minus, middle, middle] = -scale


def _refer(layer: Any) -> None:
    """The last two outputs of a 1x1 convolution become the references."""
    layer.weight[-2:] = 0
    layer.bias[-2:] = torch.tensor([REFERENCE, -REFERENCE])


def _principal(values: Tensor) -> Tensor:
    """(N, C, h, w) -> (C, C), its rows the directions of most energy first."""
    rows = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
    _, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    return directions.T.flip(0).contiguous()


def _scale_before(norm: Any, network: Any, inputs: Tensor) -> float:
    """By what a norm of one group divides, in the mean over some inputs of its network."""
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(inputs)
    hook.remove()
    return float(seen[0].flatten(1).std(dim=1).mean())
