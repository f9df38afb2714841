"""Small layers that pixel decoder and transformer decoder share."""

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32  # of every group norm; its channels are a multiple of that

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: autocast is off inside.

    For what half precision spoils: sums over many pixels or points, logarithms and normalisations (float16 overflows
    beyond 65,504 and has no 1e-8), sampling coordinates (bfloat16 has 8 bits). Autocast never casts inside, so
    half-precision arguments are made float32 by the function itself.
    """

    @functools.wraps(function)
    def outside_autocast(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in ("cuda", "cpu"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return outside_autocast


@full_precision
def mask_pool(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean feature under each mask.

    Args:
        features: (B, C, H, W).
        mask_logits: (B, Q, h, w); a pixel belongs to a mask where its logit, resized to H x W, is positive.

    Returns:
        (B, Q, C) float32; 0 where a mask is empty. No gradient flows into the mask logits.
    """
    features = features.float()
    masks = F.interpolate(mask_logits.detach().float(), size=features.shape[-2:], mode="bilinear", align_corners=False)
    masks = (masks > 0).to(features.dtype)
    masks = masks / (masks.sum(dim=(-1, -2), keepdim=True) + 1e-8)
    return torch.einsum("bchw,bqhw->bqc", features, masks)


def sine_position_embedding(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Two-dimensional sine embedding (DETR, section A.4), coordinates normalised to (0, 2 pi], temperature 10,000.

    Returns:
        (channels, height, width) float32 on the device of `like`: first half y, second half x.
    """
    half = channels // 2
    wavelength = 10000.0 ** (torch.arange(half, device=like.device) // 2 * 2 / half)

    def encode(size: int) -> Tensor:
        position = torch.arange(1, size + 1, dtype=torch.float32, device=like.device)
        angle = position[:, None] / (size + 1e-6) * (2 * math.pi) / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1).T  # (half, size)

    y = encode(height)[:, :, None].expand(half, height, width)
    x = encode(width)[:, None, :].expand(half, height, width)
    return torch.cat((y, x))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class ConvNorm(nn.Conv2d):
    """Convolution at its input's size, then norm, then activation; the parameters are `weight`, `bias`, `norm.*`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: str = "",
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """
        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: odd.
            norm: "GN" (`GROUPS` groups) or "" for none; with a norm the convolution has no bias.
            activation: applied last.
        """
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        if norm not in ("GN", ""):
            raise ValueError(f'norm is {norm!r}; it must be "GN" or ""')
        self.norm = nn.GroupNorm(GROUPS, out_channels) if norm else None
        self.activation = activation
        convolution_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def convolution_init(layer: nn.Conv2d) -> None:
    """Uniform with variance 1 / fan-in, bias zero (Caffe2's "xavier", which Mask2Former's convolutions start from)."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def xavier_init(module: nn.Module) -> None:
    """Glorot-uniform for every matrix of the module, biases and norms left alone (as in DETR)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
