"""Mask2Former's pixel decoder: a deformable-attention encoder over the coarse levels, then a feature pyramid.

Letters: B images, C channels of the decoder, S pixels of all encoder levels, L levels, M heads, P points.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import SEM_SEG_HEADS_REGISTRY, CfgNode, ShapeSpec, configurable
from clouds.errors import UserError, check_name
from clouds.modeling.layers import (
    GROUPS,
    ConvNorm,
    GroupNorm,
    autocast_dtype,
    cached_on_device,
    full_precision,
    sine_position_embedding,
    xavier_init,
)
from clouds.modeling.pixel_decoder.ops import check_implementation, find_implementation

NUM_MAPS = 3  # feature maps for the transformer decoder
BLOCK = 8192  # pixels whose features pass the feed-forward network together where no gradient is asked


class Grid(NamedTuple):
    """Levels of the encoder, laid out for T = M * L * P sampled points of a pixel.

    Attributes:
        shapes: L pairs (height, width).
        centers: (S, T * 2) center of each pixel in [0, 1], alternately x and y, the same for all its points.
        sides: (T * 2,) sides of each point's level in pixels, alternately width and height.
    """

    shapes: tuple[tuple[int, int], ...]
    centers: Tensor
    sides: Tensor


@cached_on_device(2)  # of the student and of the teacher, whose images have another size
def sampling_grid(shapes: tuple[tuple[int, int], ...], heads: int, points: int, device: torch.device) -> Grid:
    """Return the grid of levels with these shapes; for each head, the points of all levels follow each other."""
    centers = torch.cat([pixel_centers(h, w, device) for h, w in shapes])
    # Filled on the device: a copy from the host would wait for it. Without float(), which would fix an exported size.
    sides = torch.stack(
        [torch.full((points,), side, dtype=torch.float32, device=device) for h, w in shapes for side in (w, h)]
    )
    sides = sides.unflatten(0, (-1, 2)).transpose(1, 2)  # (L, P, 2)
    repeated = centers[:, None].expand(-1, heads * len(shapes) * points, -1)
    return Grid(shapes, repeated.flatten(1), sides.expand(heads, -1, -1, -1).flatten())


def pixel_centers(height: int, width: int, device: torch.device) -> Tensor:
    """Return (height * width, 2) centers of the pixels as (x, y) in (0, 1), in row-major order."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).flatten(0, 1)


class MSDeformAttn(nn.Module):
    """Multi-scale deformable self-attention over L levels (Deformable DETR, section 4.1)."""

    def __init__(
        self, dim: int, num_levels: int, num_heads: int, num_points: int, implementation: str = "auto"
    ) -> None:
        """`implementation` is a name of `ops.find_implementation`."""
        super().__init__()
        self.sizes = (num_heads, num_levels, num_points)
        self.implementation = implementation
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as in the paper: equal weights; a head's points lie in one direction, the p-th p pixels away."""
        heads, levels, points = self.sizes
        angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        offsets = direction[:, None, None] * torch.arange(1, points + 1)[:, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, levels, -1, -1).flatten())
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)

    def forward(self, source: Tensor, position: Tensor, grid: Grid) -> Tensor:
        """Attend from every pixel to sampled pixels of all levels.

        Args:
            source: (B, S, C) features.
            position: (S, C) position embedding.
            grid: sizes and pixel centers of the levels.

        Returns:
            (B, S, C).
        """
        heads, levels, points = self.sizes
        query = source + position
        weights = softmax_of_samples(self.attention_weights(query).unflatten(-1, (heads, -1)))
        locations = self.locations(query, grid)
        del query
        value = self.value_proj(source).unflatten(-1, (heads, -1))
        attend = find_implementation(self.implementation, value.device.type)
        return self.output_proj(attend(value, grid.shapes, locations, weights.unflatten(-1, (levels, points))))

    @full_precision
    def locations(self, query: Tensor, grid: Grid) -> Tensor:
        """Return the sampled locations (B, S, M, L, P, 2) as fractions of the sides of their level."""
        offsets = self.sampling_offsets(query.float())
        heads, levels, points = self.sizes
        return torch.addcdiv(grid.centers, offsets, grid.sides).unflatten(-1, (heads, levels, points, 2))


def softmax_of_samples(logits: Tensor) -> Tensor:
    """Apply the softmax to the last dimension of `logits` (B, S, M, L * P); returns float32."""
    if logits.is_cuda:
        return logits.softmax(dim=-1, dtype=torch.float32)
    # A CPU is three times faster over the rows of a wide matrix than over the columns of a narrow one.
    return logits.flatten(0, -2).T.softmax(dim=0, dtype=torch.float32).T.view(logits.shape)


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward network, each with a residual connection and a norm after it."""

    def __init__(self, dim: int, dim_feedforward: int, dropout: float, **attention: Any) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(dim, **attention)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, source: Tensor, position: Tensor, grid: Grid) -> Tensor:
        """Map `source` (B, S, C) and `position` (S, C) to (B, S, C)."""
        attended = self.self_attn(source, position, grid)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or attended.dtype != source.dtype:
            return self.feed_forward(source, attended)
        for rows, result in zip(source.split(BLOCK, 1), attended.split(BLOCK, 1), strict=True):
            result.copy_(self.feed_forward(rows, result))
        return attended

    def feed_forward(self, source: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output to its source, both (B, S, C), and apply the norms and the network between."""
        source = self.norm1(source + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu_(self.linear1(source))))
        return self.norm2(source + self.dropout(hidden))


class Encoder(nn.Module):
    """Stack of encoder layers, with one learnt embedding per level."""

    def __init__(
        self, num_layers: int, num_levels: int, dim: int, *, num_heads: int, num_points: int, **layer: Any
    ) -> None:
        super().__init__()
        self.num_heads, self.num_points = num_heads, num_points
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        sizes = {"num_levels": num_levels, "num_heads": num_heads, "num_points": num_points}
        self.layers = [EncoderLayer(dim, **sizes, **layer) for _ in range(num_layers)]
        # Registered under the name in the published checkpoints, `encoder.layers.*`.
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(self.layers)})
        xavier_init(self)
        for encoder_layer in self.layers:
            encoder_layer.self_attn.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """L maps (B, C, h, w) -> L maps of the same shapes."""
        shapes = tuple((x.shape[-2], x.shape[-1]) for x in maps)
        like = maps[0]
        grid = sampling_grid(shapes, self.num_heads, self.num_points, like.device)
        x = torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)
        position = torch.cat(
            [
                sine_position_embedding(h, w, like.shape[1], like).flatten(1).T + embedding
                for (h, w), embedding in zip(shapes, self.level_embed, strict=True)
            ]
        )
        for layer in self.layers:
            x = layer(x, position, grid)
        levels = x.split([h * w for h, w in shapes], dim=1)
        return [level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, shapes, strict=True)]


def pyramid_features(strides: dict[str, int], encoder_in_features: Sequence[str], common_stride: int) -> list[str]:
    """Return the features that are finer than the encoder's, down to the stride `common_stride`, from fine to coarse.

    Args:
        strides: stride of each backbone feature.
        encoder_in_features: features that the deformable encoder takes; others than those in `strides` do not count.
        common_stride: stride of the mask features.
    """
    finest = min((strides[name] for name in encoder_in_features if name in strides), default=0)
    return sorted((name for name in strides if common_stride <= strides[name] < finest), key=strides.__getitem__)


@SEM_SEG_HEADS_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Turns the backbone's maps into mask features at stride 4 and three coarser maps for the transformer decoder."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        mask_dim: int,
        norm: str,
        encoder_in_features: Sequence[str],
        encoder_layers: int,
        num_heads: int,
        num_points: int,
        dim_feedforward: int,
        dropout: float,
        common_stride: int,
        deformable_attention: str = "auto",
    ) -> None:
        """
        Args:
            input_shape: channels and stride of each backbone feature that is used.
            conv_dim: C, channels inside the decoder, a multiple of the groups of a norm and of `num_heads`.
            mask_dim: channels of the mask features.
            norm: norm of the pyramid's convolutions, "GN" or "".
            encoder_in_features: features that the deformable encoder takes.
            encoder_layers: number of layers of the encoder.
            num_heads: M, attention heads of the encoder.
            num_points: P, sampled points per head and level.
            dim_feedforward: hidden channels of the encoder's feed-forward networks.
            dropout: dropout probability in the encoder.
            common_stride: stride of the mask features. The pyramid joins the features from this stride up to the
                encoder's finest.
            deformable_attention: name of the implementation, see `ops.find_implementation`.
        """
        super().__init__()
        if conv_dim % math.lcm(GROUPS, num_heads):
            raise ValueError(
                f"conv_dim is {conv_dim}; it must be a multiple of the {GROUPS} groups of a norm and of num_heads, "
                f"{num_heads}"
            )
        unknown = [name for name in encoder_in_features if name not in input_shape]
        if unknown:
            raise ValueError(
                f"encoder_in_features names {', '.join(unknown)}; input_shape has {', '.join(input_shape)}"
            )
        channels, strides = {}, {}
        for name, shape in input_shape.items():
            if shape.channels is None or shape.stride is None:
                raise ValueError(f"input_shape lacks channels or stride of {name!r}")
            channels[name], strides[name] = shape.channels, shape.stride
        fine_to_coarse = sorted(input_shape, key=strides.__getitem__)
        self.encoder_in_features = [name for name in reversed(fine_to_coarse) if name in encoder_in_features]
        self.pyramid_features = pyramid_features(strides, encoder_in_features, common_stride)
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[name], conv_dim, 1), GroupNorm(GROUPS, conv_dim))
            for name in self.encoder_in_features
        )
        for projection in self.input_proj:
            xavier_init(projection)
        self.transformer = Encoder(
            encoder_layers,
            len(self.encoder_in_features),
            conv_dim,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            num_heads=num_heads,
            num_points=num_points,
            implementation=deformable_attention,
        )
        self.mask_features = ConvNorm(conv_dim, mask_dim, 1)
        for i, name in enumerate(self.pyramid_features, start=1):
            self.add_module(f"adapter_{i}", ConvNorm(channels[name], conv_dim, 1, norm=norm))
            self.add_module(f"layer_{i}", ConvNorm(conv_dim, conv_dim, 3, norm=norm, activation=F.relu_))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        for name in head.IN_FEATURES:
            check_name("MODEL.SEM_SEG_HEAD.IN_FEATURES", name, input_shape)
        key, coarse = "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES
        strides = {name: input_shape[name].stride or 1 for name in head.IN_FEATURES}
        if len(coarse) + len(pyramid_features(strides, coarse, head.COMMON_STRIDE)) < NUM_MAPS:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.{key} is {coarse}; with the finer features of "
                f"IN_FEATURES down to COMMON_STRIDE {head.COMMON_STRIDE} it must give {NUM_MAPS} feature maps or more."
            )
        device = torch.device(cfg.MODEL.DEVICE)
        try:
            check_implementation(head.DEFORMABLE_ATTENTION, device)
        except ValueError as error:
            key = "MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION"
            raise UserError(f"{key} is {head.DEFORMABLE_ATTENTION!r}: {error}.") from None
        find_implementation(
            head.DEFORMABLE_ATTENTION, device.type
        )  # says now, not in a compiled graph, what is missing
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "conv_dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "norm": head.NORM,
            "encoder_in_features": head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "encoder_layers": head.TRANSFORMER_ENC_LAYERS,
            "num_heads": head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
            "num_points": head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
            "dim_feedforward": head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
            "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "common_stride": head.COMMON_STRIDE,
            "deformable_attention": head.DEFORMABLE_ATTENTION,
        }

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute the mask features and the maps for the transformer decoder.

        Args:
            features: backbone features (B, channels, h, w) by name.

        Returns:
            Mask features (B, mask_dim, H / 4, W / 4), and three maps (B, C, h, w) of strides 32, 16 and 8, in float32
            (a map of the pyramid without norms: in the dtype of autocast).
        """
        # bfloat16 has the range of float32. Of float16, products of large features would leave the range.
        if autocast_dtype(next(iter(features.values()))) == torch.bfloat16:
            return self._decode(features.__getitem__)
        return self._decode_in_full_precision(features)

    @full_precision
    def _decode_in_full_precision(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self._decode(lambda name: features[name].float())

    def _decode(self, feature: Callable[[str], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the features that `feature` returns by name, each of which is asked for once."""
        projected = []
        for name, projection in zip(self.encoder_in_features, self.input_proj, strict=True):
            convolution, norm = projection.children()
            projected.append(norm(convolution(feature(name)).float()))
        maps = self.transformer(projected)
        for i, name in reversed(list(enumerate(self.pyramid_features, start=1))):
            lateral = self.get_submodule(f"adapter_{i}")(feature(name))
            lateral += F.interpolate(maps[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            maps.append(self.get_submodule(f"layer_{i}")(lateral))
        return self.mask_features(maps[-1]).float(), maps[:NUM_MAPS]
