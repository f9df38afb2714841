"""Image towers of timm as backbones: pyramids such as ConvNeXt, and plain vision transformers.

A model of timm becomes a backbone by its name, without code for it, if it lists its levels in `feature_info` and
computes them in `forward_intermediates`.

Letters: B images, C channels, H x W network input.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import BACKBONE_REGISTRY, CfgNode, ShapeSpec, configurable
from clouds.errors import UserError, check_name
from clouds.modeling.backbone.base import SegmentationBackbone, TokenLayout, TowerSource
from clouds.modeling.backbone.timm_models import (
    architecture,
    is_known,
    is_published,
    known_models,
    load_timm,
    resample_patches,
)
from clouds.utils.open_clip import open_clip

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Strides of the feature maps."""

_DEPTHS = {"res2": 1 / 3, "res3": 1 / 2, "res4": 2 / 3, "res5": 1.0}
"""Shares of a transformer's blocks after which its maps are taken: 8, 12, 16 and 24 of 24."""


@BACKBONE_REGISTRY.register()
class TimmTower(SegmentationBackbone):
    """Image tower of timm as a feature pyramid, frozen unless `trainable` or adapted. It has no text tower.

    The maps of a pyramid are the last ones of each stride. Those of a plain transformer are the outputs of four blocks,
    without prefix tokens, resized bilinearly to the four strides. The final norm is not applied to them, since it was
    trained for the last block alone.
    """

    timm_model: Any

    @configurable
    def __init__(
        self,
        *,
        tower: nn.Module,
        trainable: bool = False,
        reloadable: bool = True,
        out_features: Collection[str] = tuple(STRIDES),
        patch_size: int = 0,
        checkpointing: bool = False,
    ) -> None:
        """
        Args:
            tower: model of timm that takes images of any size, see `load_timm`. Its head, its final norm and blocks
                after the last map are removed.
            trainable: whether to train the tower.
            reloadable: whether the weights of `tower` come from a file or from a hub, not from a random initialization.
            out_features: names of the maps that `forward` returns, of those in `STRIDES`.
            patch_size: side in pixels of the patches of a plain transformer; 0 = its own.
            checkpointing: whether to recompute the activations of a trained or adapted tower in the backward pass.

        Raises:
            ValueError: the model has no feature pyramid.
        """
        levels = pyramid_levels(tower)
        model: Any = tower
        mean, std = ([255 * value for value in model.pretrained_cfg[key]] for key in ("mean", "std"))
        super().__init__(
            pixel_mean=mean, pixel_std=std, trainable=trainable, reloadable=reloadable, checkpointing=checkpointing
        )
        self.timm_model, self._architecture = model, architecture(model)
        self._channels: dict[str, int] = {name: model.feature_info[i]["num_chs"] for name, i in levels.items()}
        self._levels = {name: level for name, level in levels.items() if name in out_features}
        model.prune_intermediate_layers(sorted({*self._levels.values()}), prune_norm=True, prune_head=True)
        if self.is_plain and patch_size not in (0, self._patch_size):
            resample_patches(model, patch_size)
        for module in model.modules():
            # Otherwise EVA reads the weights of a layer without calling it, and an adapter would have no effect there.
            if hasattr(module, "qkv_bias_separate"):
                module.qkv_bias_separate = True
        model.requires_grad_(trainable)
        self._maps = tower_maps
        self.train(self.training)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        settings = cfg.MODEL.BACKBONE.TIMM
        name, weights = settings.MODEL_NAME, settings.WEIGHTS
        if not is_known(name):
            if name in open_clip.list_models():
                raise UserError(
                    f"MODEL.BACKBONE.TIMM.MODEL_NAME is {name}, a model of open_clip: set MODEL.CLOUDS.CLIP_MODEL_NAME "
                    "to it and MODEL.BACKBONE.NAME to CLIP, or choose a model of timm."
                )
            check_name("MODEL.BACKBONE.TIMM.MODEL_NAME", name, known_models())
        try:
            tower = load_timm(name, weights, "meta" if cfg.MODEL.DEVICE == "meta" else "cpu")
        except UserError as error:
            keys = "check MODEL.BACKBONE.TIMM.MODEL_NAME and MODEL.BACKBONE.TIMM.WEIGHTS"
            raise UserError(f"{str(error).removesuffix('.')}; {keys}.") from error
        try:
            check_pyramid(tower)
        except ValueError as error:
            raise UserError(
                f"MODEL.BACKBONE.TIMM.MODEL_NAME is {name}, which cannot be a backbone ({error}): choose a ConvNeXt or "
                "a vision transformer, such as convnext_large.dinov3_lvd1689m."
            ) from error
        return {
            "tower": tower,
            "reloadable": bool(weights),
            "out_features": cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES,
            "patch_size": settings.PATCH_SIZE,
            "checkpointing": cfg.MODEL.BACKBONE.CHECKPOINTING,
        }

    @property
    def tower(self) -> nn.Module:
        """The model of timm, without its head."""
        return self.timm_model

    def source(self, cfg: CfgNode) -> TowerSource:
        settings = cfg.MODEL.BACKBONE.TIMM
        return TowerSource(
            model=("MODEL.BACKBONE.TIMM.MODEL_NAME", settings.MODEL_NAME),
            weights=("MODEL.BACKBONE.TIMM.WEIGHTS", settings.WEIGHTS),
            is_published=is_published(settings.MODEL_NAME, settings.WEIGHTS),
            file="timm_*/config.json",
            architecture=self._architecture,
        )

    @property
    def is_plain(self) -> bool:
        """Whether the tower is a plain transformer, whose blocks have one stride; otherwise it is a pyramid."""
        return is_plain(self.timm_model)

    @property
    def tokens(self) -> TokenLayout | None:
        return TokenLayout(self.timm_model.embed_dim, self.timm_model.num_prefix_tokens) if self.is_plain else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps of images.

        Args:
            images: (B, 3, H, W) float, normalized; H and W are multiples of `size_divisibility`.

        Returns:
            The maps (B, C, H / stride, W / stride) of `out_features`.
        """
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            return self._maps(self.timm_model, images, self._levels, self.is_plain)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the tower with `torch.compile`, which takes the arguments."""
        self._maps = torch.compile(tower_maps, *args, **kwargs)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self._channels[name], stride=stride) for name, stride in STRIDES.items()}

    @property
    def size_divisibility(self) -> int:
        return math.lcm(max(STRIDES.values()), self._patch_size if self.is_plain else 1)

    @property
    def _patch_size(self) -> int:
        return max(self.timm_model.patch_embed.patch_size)


@BACKBONE_REGISTRY.register()
class TrainableTimmTower(TimmTower):
    """Trained image tower of timm."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "trainable": True}


def is_plain(tower: Any) -> bool:
    """Return whether all blocks of a model of timm have one stride, as in a plain vision transformer."""
    return len({level["reduction"] for level in tower.feature_info}) == 1


def pyramid_levels(tower: Any) -> dict[str, int]:
    """Return the index in `feature_info` of the level of each feature map.

    Args:
        tower: model of timm.

    Raises:
        ValueError: the model has no levels of the four strides, nor blocks of one stride for images of any size.
    """
    levels = getattr(tower, "feature_info", None)
    if not levels or not hasattr(tower, "forward_intermediates"):
        raise ValueError("tower lists no feature maps")
    if is_plain(tower):
        if not getattr(tower, "dynamic_img_size", False):
            raise ValueError("tower takes images of one size only")
        return {name: max(0, round(share * len(levels)) - 1) for name, share in _DEPTHS.items()}
    strides = {level["reduction"]: index for index, level in enumerate(levels)}  # the last level of each stride
    if not strides.keys() >= {*STRIDES.values()}:
        raise ValueError(f"tower has feature maps of the strides {sorted(strides)}, not of 4, 8, 16 and 32")
    return {name: strides[stride] for name, stride in STRIDES.items()}


@torch.no_grad()
def check_pyramid(tower: Any) -> None:
    """Check that a model of timm has the feature maps that `TimmTower` needs, for images that are not square.

    Raises:
        ValueError: it lacks them, or fails for such images. The message gives the reason in a few words.
    """
    levels, plain = pyramid_levels(tower), is_plain(tower)
    side = max(tower.patch_embed.patch_size) if plain else 32
    images = next(tower.parameters()).new_zeros(1, 3, 2 * side, 3 * side)
    try:
        maps = tower_maps(tower.eval(), images, levels, plain=False)
    except Exception as error:  # a model that takes images of one size fails in many ways
        raise ValueError(f"tower fails for images of another size: {type(error).__name__}") from error
    for name, level in levels.items():
        stride = side if plain else STRIDES[name]
        expected = (1, tower.feature_info[level]["num_chs"], 2 * side // stride, 3 * side // stride)
        if tuple(maps[name].shape) != expected:
            raise ValueError(f"tower has a feature map {tuple(maps[name].shape)} instead of {expected}")


def tower_maps(tower: Any, images: Tensor, levels: Mapping[str, int], plain: bool) -> dict[str, Tensor]:
    """Compute feature maps.

    Args:
        tower: model of timm.
        images: (B, 3, H, W), normalized.
        levels: index of the level of each map, see `pyramid_levels`.
        plain: whether all levels have one stride, so that they are resized.

    Returns:
        Maps (B, C, H / stride, W / stride) by name.
    """
    indices = sorted(set(levels.values()))
    found = dict(zip(indices, tower.forward_intermediates(images, indices, intermediates_only=True), strict=True))
    if not plain:
        return {name: found[level] for name, level in levels.items()}
    return {name: resized(found[level], images.shape, STRIDES[name]) for name, level in levels.items()}


def resized(x: Tensor, image_shape: Sequence[int], stride: int) -> Tensor:
    """Resize a map (B, C, h, w) of images (B, 3, H, W) bilinearly to (B, C, H / stride, W / stride)."""
    size = (image_shape[-2] // stride, image_shape[-1] // stride)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
