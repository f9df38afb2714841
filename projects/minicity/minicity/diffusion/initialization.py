"""Initialization of the autoencoder as the best linear code of images that its layers can compute.

From random weights, an autoencoder needs thousands of updates to reproduce colors at all. Here the linear shortcuts
around its residual blocks are set from statistics of the images: the encoder computes principal components of squares
of pixels, and the decoder interpolates the mean color of each square. The residual blocks start at zero and learn what
is not linear.

Letters: N images of H x W pixels, L latent channels, h x w latents of an image.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REFERENCE = 6.0
"""Constant value of two channels, one of them negated. The last norm of encoder and decoder divides by the standard
deviation over all channels, which would remove the brightness and contrast of an image. With these two channels the
deviation is nearly constant."""

LOG_VARIANCE = -6.0


@torch.no_grad()
def initialize_linearly(autoencoder: Any, images: Tensor) -> None:
    """Set the weights of an untrained `AutoencoderKL`. Its latents start with mean 0 and deviation 1.

    Args:
        autoencoder: autoencoder on the CPU. The widths of its first and last level must differ from their neighbors'.
        images: (N, 3, H, W) in -1..1; a few hundred are enough.
    """
    for module in autoencoder.modules():
        if type(module).__name__ == "ResnetBlock2D":
            _zero(module.conv2)
        elif type(module).__name__ == "Attention":
            _zero(module.to_out[0])
    for name in ("quant_conv", "post_quant_conv"):
        layer = getattr(autoencoder, name)
        _pass_through(layer, layer.out_channels)
    latents = _initialize_encoder(autoencoder.encoder, images, autoencoder.config.latent_channels)
    _initialize_decoder(autoencoder, images, latents)


def _initialize_encoder(encoder: Any, images: Tensor, channels: int) -> Tensor:
    """Set the encoder's weights; return the latents (N, L, h, w) that it now computes for the images, nearly."""
    _pass_through(encoder.conv_in, 3)
    found = images
    for block in encoder.down_blocks[:-1]:
        if block.resnets[0].conv_shortcut is not None:
            _pass_through(block.resnets[0].conv_shortcut, found.shape[1])
        # The first 2x2 taps of a 3x3 kernel at stride 2, padded right and below, cover one square of pixels each.
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
    _zero(layer)
    for row in range(channels):
        _opposite_pair(layer, row, row + channels, row, float(1 / deviation[row]), float(-mean[row] / deviation[row]))
    for place in range(channels, rest):
        layer.weight[place + channels, place] = 0.3 / deviation[place]
    _add_reference(layer)

    layer = encoder.conv_out
    _zero(layer)
    scale = _scale_before(encoder.conv_norm_out, encoder, images[:8])
    for row in range(channels):
        _read_opposites(layer, row, row, row + channels, scale)
    layer.bias[channels:] = LOG_VARIANCE
    return (found[:, :channels] - mean[:channels, None, None]) / deviation[:channels, None, None]


def _initialize_decoder(autoencoder: Any, images: Tensor, latents: Tensor) -> None:
    decoder, channels = autoencoder.decoder, latents.shape[1]
    _pass_through(decoder.conv_in, channels)
    *blocks, last = decoder.up_blocks
    tent = torch.tensor([0.25, 0.5, 0.25])
    for block in blocks:
        if block.resnets[0].conv_shortcut is not None:
            _pass_through(block.resnets[0].conv_shortcut, channels)
        layer = block.upsamplers[0].conv
        _pass_through(layer, channels)
        for row in range(channels):
            layer.weight[row, row] = tent[:, None] * tent

    # Least-squares prediction of the mean color of each square from its latents.
    colors = F.adaptive_avg_pool2d(images, (latents.shape[2], latents.shape[3])).permute(0, 2, 3, 1).reshape(-1, 3)
    known = latents.permute(0, 2, 3, 1).reshape(-1, channels)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    solution = torch.linalg.lstsq(known, colors).solution.T
    layer = last.resnets[0].conv_shortcut
    for row in range(3):
        for place, sign in ((row, 1), (row + 3, -1)):
            layer.weight[place] = 0
            layer.weight[place, :channels, 0, 0] = sign * solution[row, :-1]
            layer.bias[place] = sign * solution[row, -1]
    _add_reference(layer)

    _zero(decoder.conv_out)
    scale = _scale_before(decoder.conv_norm_out, decoder, latents[:8])
    for row in range(3):
        _read_opposites(decoder.conv_out, row, row, row + 3, scale)


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _pass_through(layer: Any, channels: int) -> None:
    """Let the first output channels equal the first input channels. The other outputs stay random."""
    middle = layer.kernel_size[0] // 2
    layer.weight[:channels] = 0
    layer.bias[:channels] = 0
    for row in range(channels):
        layer.weight[row, row, middle, middle] = 1


def _opposite_pair(layer: Any, plus: int, minus: int, source: int, factor: float, bias: float) -> None:
    """Set two outputs of a 1x1 convolution to factor * source + bias and its negative."""
    for row, sign in ((plus, 1), (minus, -1)):
        layer.weight[row, source] = sign * factor
        layer.bias[row] = sign * bias


def _read_opposites(layer: Any, row: int, plus: int, minus: int, scale: float) -> None:
    """Recover x from the outputs of a SiLU for x and -x: silu(x) - silu(-x) = x."""
    middle = layer.kernel_size[0] // 2
    layer.weight[row, plus, middle, middle] = scale
    layer.weight[row, minus, middle, middle] = -scale


def _add_reference(layer: Any) -> None:
    """Set the last two outputs of a 1x1 convolution to plus and minus `REFERENCE`."""
    layer.weight[-2:] = 0
    layer.bias[-2:] = torch.tensor([REFERENCE, -REFERENCE])


def _principal(values: Tensor) -> Tensor:
    """Return the uncentered principal directions of values (N, C, h, w) as rows (C, C), largest energy first."""
    rows = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
    _, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    return directions.T.flip(0).contiguous()


def _scale_before(norm: Any, network: Any, inputs: Tensor) -> float:
    """Return the mean standard deviation that a norm of one group divides by, over some inputs of its network."""
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(inputs)
    hook.remove()
    return float(seen[0].flatten(1).std(dim=1).mean())
