"""Small layers and functions that several parts of the model share."""

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import ParamSpec, TypeVar, TypeVarTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32  # groups of every group norm; its channels must be a multiple

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Disable autocast inside the decorated function.

    Some computations need full precision: sums over many pixels or points, logarithms and normalizations (float16
    overflows above 65,504 and rounds 1e-8 to 0), and sampling coordinates (bfloat16 has 8 bits). The function must
    convert half-precision arguments to float32 itself.
    """

    @functools.wraps(function)
    def outside_autocast(*args: P.args, **kwargs: P.kwargs) -> R:
        # Plain contexts: `torch.compile` cannot trace a stack of them.
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)

    return outside_autocast


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast chooses on the device of a tensor; None without autocast."""
    kind = like.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if enabled else None


def cached_on_device(size: int) -> Callable[[Callable[[*Ts], R]], Callable[[*Ts], R]]:
    """Keep the last `size` results of the decorated function, which makes tensors from sizes and a device.

    Nobody may modify the tensors. `torch.compile` includes the function in its graph instead.
    """

    def decorate(function: Callable[[*Ts], R]) -> Callable[[*Ts], R]:
        @functools.lru_cache(size)
        def cached(stream: torch.cuda.Stream | None, args: tuple[*Ts]) -> R:
            with torch.inference_mode(False):  # a tensor that is made in inference mode could not be used in training
                return function(*args)

        @functools.wraps(function)
        def lookup(*args: *Ts) -> R:
            if torch.compiler.is_compiling():
                return function(*args)
            # A stream could read what another one has not written yet, so that each has tensors of its own.
            device = next(value for value in args if isinstance(value, torch.device))
            return cached(torch.cuda.current_stream(device) if device.type == "cuda" else None, args)

        return lookup

    return decorate


@full_precision
def mask_pool(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Average the features under each mask.

    Args:
        features: (B, C, H, W) feature map.
        mask_logits: (B, Q, h, w); a pixel is inside a mask where its logit, resized to H x W, is positive.

    Returns:
        (B, Q, C) float32; 0 for an empty mask. The mask logits receive no gradient.
    """
    features = features.float()
    masks = F.interpolate(mask_logits.detach().float(), size=features.shape[-2:], mode="bilinear", align_corners=False)
    masks = (masks > 0).to(features.dtype)
    masks = masks / masks.sum(dim=(-1, -2), keepdim=True).clamp(min=1)
    return torch.einsum("bchw,bqhw->bqc", features, masks)


@full_precision
def mask_products(embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """Multiply mask embeddings (B, Q, E) and mask features (B, E, h, w) to mask logits (B, Q, h, w) float32.

    Half precision would lose range and save no memory: autocast keeps a half-precision copy of the mask features for
    the backward pass.
    """
    return torch.einsum("bqe,behw->bqhw", embeddings.float(), mask_features.float())


def sine_position_embedding(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Compute the two-dimensional sine embedding of DETR (section A.4) with temperature 10,000.

    Args:
        height: rows of the map, normalized to (0, 2 pi].
        width: columns of the map, normalized to (0, 2 pi].
        channels: number of channels, a multiple of 4.
        like: tensor on the device of the result.

    Returns:
        (channels, height, width) float32: the first half of the channels encodes y, the second half x.
    """
    return _sine_position_embedding(height, width, channels, like.device)


@cached_on_device(6)  # three maps of the student and of the teacher, whose images have another size
def _sine_position_embedding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    half = channels // 2
    wavelength = 10000.0 ** (torch.arange(half, device=device) // 2 * 2 / half)

    def encode(size: int) -> Tensor:
        position = torch.arange(1, size + 1, dtype=torch.float32, device=device)
        angle = position[:, None] / (size + 1e-6) * (2 * math.pi) / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1).T  # (half, size)

    y = encode(height)[:, :, None].expand(half, height, width)
    x = encode(width)[:, None, :].expand(half, height, width)
    return torch.cat((y, x))


class MLP(nn.Module):
    """Linear layers with ReLU in between."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class GroupNorm(nn.GroupNorm):
    """Group norm without torch's check for groups of a single number, since an exported size is not known yet."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class ConvNorm(nn.Conv2d):
    """Convolution that keeps the size, then norm, then activation; parameters `weight`, `bias` and `norm.*`."""

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
            kernel_size: side of the kernel, odd.
            norm: "GN" for a group norm with `GROUPS` groups, "" for none; with a norm, the convolution has no bias.
            activation: function applied last, also in place; None = identity.
        """
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        if norm not in ("GN", ""):
            raise ValueError(f'norm is {norm!r}; it must be "GN" or ""')
        self.norm = GroupNorm(GROUPS, out_channels) if norm else None
        self.activation = activation
        convolution_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x.float())
        return x if self.activation is None else self.activation(x)


def convolution_init(layer: nn.Conv2d) -> None:
    """Initialize like Mask2Former: uniform weights with variance 1 / fan-in (Caffe2's "xavier"), bias 0."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def xavier_init(module: nn.Module) -> None:
    """Initialize all matrices of a module with Glorot's uniform distribution, as in DETR; keep biases and norms."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
