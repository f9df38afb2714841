"""TinyViT (Wu et al., ECCV 2022) as the image encoder of MobileSAM (Zhang et al., 2023), for images of any size.

Module and parameter names are those of MobileSAM's weight file, which loads without a key map. The module implements
only what that file needs: one width, no dropout. Positions enter through convolutions and through biases inside
windows, never absolutely, so that nothing depends on the size of the image.

Letters: B images, C channels, H x W a map, N tokens of a window.
"""

from collections import OrderedDict

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 160, 320)  # channels of the four stages; the 5M model
DEPTHS = (2, 2, 6, 2)  # blocks per stage
HEADS = (0, 4, 5, 10)  # attention heads; the first stage is convolutional
WINDOWS = (0, 7, 14, 7)  # side of the attention windows, in tokens
STRIDES = (2, 2, 1)  # strides between the stages; the original has 2 for the last, MobileSAM stays at stride 16
EXPANSION = 4  # ratio of hidden channels to channels
EMBEDDING = 256  # channels that SAM's decoder expects
STRIDE = 16  # of the embedding


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(c=convolution, bn=nn.BatchNorm2d(outputs)))


class PatchEmbed(nn.Module):
    """(B, 3, H, W) -> (B, C, H / 4, W / 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class Bottleneck(nn.Module):
    """Inverted bottleneck of MobileNetV2: pointwise, depthwise and pointwise convolution. Also joins two stages."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, hidden, 1)
        self.conv2 = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.conv3 = ConvNorm(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class ConvBlock(Bottleneck):
    """Bottleneck with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__(width, EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + super().forward(x))


class Attention(nn.Module):
    """Self-attention inside windows, with a learnt bias for each distance (|dy|, |dx|) and head."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        dy, dx = ((at.flatten()[:, None] - at.flatten()).abs() for at in (y, x))
        self.distance: Tensor
        self.register_buffer("distance", dy * window + dx, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, N, C) -> (windows, N, C)."""
        windows, tokens, width = x.shape
        # Query, key and value of a head are adjacent.
        qkv = self.qkv(self.norm(x)).view(windows, tokens, self.heads, 3 * width // self.heads).transpose(1, 2)
        bias = self.attention_biases[:, self.distance]
        query, key, value = qkv.chunk(3, dim=-1)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(x.transpose(1, 2).reshape(windows, tokens, width))


class Mlp(nn.Module):
    """Layer norm and two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Attention in windows, a depthwise convolution across windows, and an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.local_conv(x + self.attend(x))
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def attend(self, x: Tensor) -> Tensor:
        """Split into windows, attend, join; the zeros that pad the last windows take part in the attention."""
        images, width, height, breadth = x.shape
        side = self.window
        x = F.pad(x, (0, -breadth % side, 0, -height % side))
        rows, columns = x.shape[2] // side, x.shape[3] // side
        x = x.view(images, width, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        x = self.attn(x.reshape(-1, side * side, width))
        x = x.view(images, rows, columns, side, side, width).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(images, width, rows * side, columns * side)[:, :, :height, :breadth]


class Stage(nn.Module):
    """Blocks, then a bottleneck that leads to the next stage; the last stage has none."""

    def __init__(self, number: int) -> None:
        super().__init__()
        width = WIDTHS[number]
        self.blocks = nn.Sequential(
            *(
                ConvBlock(width) if number == 0 else Block(width, HEADS[number], WINDOWS[number])
                for _ in range(DEPTHS[number])
            )
        )
        self.downsample: nn.Module = nn.Identity()
        if number + 1 < len(WIDTHS):
            self.downsample = Bottleneck(width, WIDTHS[number + 1], WIDTHS[number + 1], STRIDES[number])

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class TinyViT(nn.Module):
    """(B, 3, S, S) normalized images -> (B, 256, S / 16, S / 16) embeddings; S is a multiple of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(WIDTHS[0])
        self.layers = nn.Sequential(*(Stage(number) for number in range(len(WIDTHS))))
        # ImageNet's classifier is not used, but MobileSAM's file contains it.
        self.norm_head = nn.LayerNorm(WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], EMBEDDING, 1, bias=False),
            LayerNorm2d(EMBEDDING),
            nn.Conv2d(EMBEDDING, EMBEDDING, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.layers(self.patch_embed(x)))
