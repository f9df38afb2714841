"""CLIP's towers from open_clip as a backbone: ConvNeXt and ModifiedResNet, frozen or trained.

Letters: B images, Q masks, M prompts, C channels, H x W network input, h x w feature map, D dimension of CLIP's space.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from timm.models import ConvNeXt
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.d2 import BACKBONE_REGISTRY, CfgNode, ShapeSpec, configurable
from clouds.errors import UserError, check_name
from clouds.modeling.backbone.base import SegmentationBackbone, TextTower, TowerSource
from clouds.modeling.backbone.open_clip_models import (
    has_own_weights,
    is_published,
    load_open_clip,
    model_config,
    normalization,
    resolve_model_name,
)
from clouds.modeling.backbone.timm_models import known_models
from clouds.modeling.backbone.towers import (
    SUPPORTED,
    Stages,
    bfloat16_copy,
    feature_maps,
    image_tower,
    tower_stages,
)
from clouds.modeling.layers import autocast_dtype, full_precision, mask_pool
from clouds.modeling.text_classifier import TextClassifier, build_text_classifier
from clouds.utils.open_clip import open_clip

_MOST_CLASSIFIERS = 16  # in memory; a service may be asked for ever new class names


@BACKBONE_REGISTRY.register()
class CLIP(SegmentationBackbone, TextTower):
    """CLIP's image tower as a feature pyramid, with its text tower. Frozen unless `trainable`.

    Text embeddings and the bfloat16 copy of frozen weights are kept. `load_state_dict`, of this module or of one that
    contains it, makes them anew; other changes of the weights do not.
    """

    @configurable
    def __init__(
        self,
        *,
        clip_model: nn.Module,
        model_name: str,
        trainable: bool = False,
        reloadable: bool = True,
        out_features: Collection[str] | None = None,
        checkpointing: bool = False,
    ) -> None:
        """
        Args:
            clip_model: an open_clip model with a timm ConvNeXt or a ModifiedResNet as image tower.
            model_name: name of the model for `open_clip.get_tokenizer`.
            trainable: whether to train the image tower's feature maps. The text tower, the projection to CLIP's space
                and the temperature are always frozen, since no loss depends on them.
            reloadable: whether the weights of `clip_model` come from a file or from the hub, not from a random
                initialization.
            out_features: names of the maps that `forward` returns; default: all in `output_shape`.
            checkpointing: whether to recompute the activations of a trained or adapted ConvNeXt in the backward pass.

        Raises:
            ValueError: an image tower of another type.
        """
        mean, std = normalization(clip_model)
        super().__init__(
            pixel_mean=mean, pixel_std=std, trainable=trainable, reloadable=reloadable, checkpointing=checkpointing
        )
        tower = image_tower(clip_model)
        if not isinstance(tower, SUPPORTED):
            raise ValueError(f"clip_model has a {type(tower).__name__}; it must have a ConvNeXt or a ModifiedResNet")
        self.clip_model: Any = clip_model
        self.model_name = model_name
        self.clip_model.requires_grad_(False)
        if trainable:
            self.tower.requires_grad_(True)
            self._projection.requires_grad_(False)
            if self.is_convnext:
                self.tower.norm_pre.requires_grad_(False)  # comes after the last map that the head takes
        self.out_features = frozenset(tower_stages(tower) if out_features is None else out_features)
        self._text_classifiers: dict[tuple[str, ...], TextClassifier] = {}
        self._feature_maps = feature_maps
        self._copied_stages: Stages | None = None
        self.register_load_state_dict_post_hook(_weights_changed)
        self.train(self.training)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        name, pretrained = cfg.MODEL.CLOUDS.CLIP_MODEL_NAME, cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS
        # Built on the CPU and moved later; on "meta" at once, where a full-size model must not take memory first.
        device = "meta" if cfg.MODEL.DEVICE == "meta" else "cpu"
        if not has_own_weights(name) and not name.endswith(".json"):
            if name not in open_clip.list_models() and name in known_models():
                raise UserError(
                    f"MODEL.CLOUDS.CLIP_MODEL_NAME is {name}, a model of timm: set MODEL.BACKBONE.TIMM.MODEL_NAME to "
                    "it and MODEL.BACKBONE.NAME to TimmTower, or choose a model of open_clip."
                )
            check_name("MODEL.CLOUDS.CLIP_MODEL_NAME", name, open_clip.list_models())
        keys = "check MODEL.CLOUDS.CLIP_MODEL_NAME and MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS"
        try:
            clip_model = load_open_clip(name, pretrained, device)
        except UserError as error:
            raise UserError(f"{str(error).removesuffix('.')}; {keys}.") from error
        tower = image_tower(clip_model)
        if not isinstance(tower, SUPPORTED):
            raise UserError(
                f"CLIP model {name!r} has a {type(tower).__name__} as image tower; set MODEL.CLOUDS.CLIP_MODEL_NAME to "
                "a model with a ConvNeXt of timm or a CLIP ResNet, such as convnext_large_d_320 or RN50."
            )
        if cfg.MODEL.BACKBONE.CHECKPOINTING and not isinstance(tower, ConvNeXt):
            raise UserError(
                f"MODEL.BACKBONE.CHECKPOINTING is True, but CLIP model {name!r} has a {type(tower).__name__}, which "
                "cannot recompute its activations: set it to False, or choose a ConvNeXt."
            )
        return {
            "clip_model": clip_model,
            "model_name": resolve_model_name(name),
            "reloadable": bool(pretrained) or has_own_weights(name),
            # The last map serves the geometric ensemble; it is the last of the pyramid, so that it takes no memory.
            "out_features": {*cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, "clip_vis_dense"},
            "checkpointing": cfg.MODEL.BACKBONE.CHECKPOINTING,
        }

    @classmethod
    def from_folder(cls, folder: Path) -> "CLIP":
        """Build the frozen towers of a folder in open_clip's layout."""
        return cls(clip_model=load_open_clip(str(folder)), model_name=resolve_model_name(str(folder))).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the tensors, except that the text tower stays on the CPU until `encode_text` needs it."""
        super()._apply(fn, recurse)
        self._copied_stages = None
        if self.logit_scale.device.type != "meta":
            self._move_text_tower("cpu")
        return self

    def _move_text_tower(self, device: torch.device | str) -> None:
        for part in (self.clip_model.transformer, self.clip_model.token_embedding):
            part.to(device)

    @property
    def is_convnext(self) -> bool:
        """Whether the image tower is a ConvNeXt, otherwise it is a ModifiedResNet."""
        return isinstance(self.tower, ConvNeXt)

    @property
    def tower(self) -> Any:
        """The image tower, a ConvNeXt or a ModifiedResNet."""
        return image_tower(self.clip_model)

    @property
    def _projection(self) -> Any:
        """The tower's own pooling head, which only the open-vocabulary classifier uses."""
        return self.tower.head if self.is_convnext else self.tower.attnpool

    def source(self, cfg: CfgNode) -> TowerSource:
        name, pretrained = cfg.MODEL.CLOUDS.CLIP_MODEL_NAME, cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS
        return TowerSource(
            model=("MODEL.CLOUDS.CLIP_MODEL_NAME", name),
            weights=("MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", pretrained),
            is_published=is_published(name, pretrained),
            file="clip_*.json",
            architecture=model_config(name, pretrained),
        )

    @property
    def text_tower(self) -> TextTower:
        return self

    @property
    def dense_feature(self) -> str:
        return "clip_vis_dense"

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W) float, normalized; H and W are multiples of 32.

        Returns:
            The maps (B, C, h, w) of `out_features`; those of a frozen tower are bfloat16 under bfloat16 autocast.
        """
        if self.trainable:
            return self._feature_maps(tower_stages(self.tower), images, self.out_features)
        with torch.no_grad():
            if autocast_dtype(images) is torch.bfloat16:
                return full_precision(self._feature_maps)(self._bfloat16_stages(), images, self.out_features)
            return self._feature_maps(tower_stages(self.tower), images, self.out_features)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the image tower with `torch.compile`, which takes the arguments."""
        self._feature_maps = torch.compile(feature_maps, *args, **kwargs)

    @torch.inference_mode(False)  # the copy is also used in training
    def _bfloat16_stages(self) -> Stages:
        """Return a copy of the frozen stages in bfloat16, made on first use; autocast casts weights in every pass.

        The copy is no submodule, so that state dicts, checkpoints and digests hold the original weights only.
        """
        if self._copied_stages is None:
            self._copied_stages = bfloat16_copy(tower_stages(self.tower))
        return self._copied_stages

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and strides, read from the model, so that any ConvNeXt or ModifiedResNet works."""
        tower = self.tower
        if self.is_convnext:
            channels = [stage["num_chs"] for stage in tower.feature_info]
            stem = ShapeSpec(channels=channels[0], stride=4)
        else:
            stages = (tower.layer1, tower.layer2, tower.layer3, tower.layer4)
            channels = [stage[-1].conv3.out_channels for stage in stages]
            stem = ShapeSpec(channels=tower.conv3.out_channels, stride=2)
        pyramid = {f"res{i}": ShapeSpec(channels=c, stride=2**i) for i, c in enumerate(channels, start=2)}
        return {"stem": stem, **pyramid, "clip_vis_dense": ShapeSpec(channels=channels[-1], stride=32)}

    @property
    def size_divisibility(self) -> int:
        return 32

    @property
    def embed_dim(self) -> int:
        """D, dimension of the space that text and images share."""
        return self.clip_model.text_projection.shape[-1]

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of CLIP's inverse temperature, scalar."""
        return self.clip_model.logit_scale

    @cached_property
    def tokenize(self) -> Callable[[list[str]], Tensor]:
        """Function from M prompts to (M, context length) int64 tokens. Read from disk on first use."""
        return open_clip.get_tokenizer(self.model_name)

    @torch.no_grad()
    @full_precision  # the result is cached and also used in full precision
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Encode M prompts into (M, D) text features, not normalized."""
        device = self.logit_scale.device
        self._move_text_tower(device)
        return self.clip_model.encode_text(self.tokenize(prompts).to(device))

    def text_classifier(self, class_names: Sequence[str]) -> TextClassifier:
        """Return the text classifier of class names, synonyms separated by commas; the last ones are cached."""
        key = tuple(class_names)
        kept = self._text_classifiers.pop(key, None)
        if kept is None:
            kept = build_text_classifier(self.encode_text, key)
            self._move_text_tower("cpu")
        self._text_classifiers[key] = kept  # the last one is the newest
        if len(self._text_classifiers) > _MOST_CLASSIFIERS:
            del self._text_classifiers[next(iter(self._text_classifiers))]
        return TextClassifier(kept.embeddings.to(self.logit_scale), kept.names_per_class)

    @full_precision
    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Apply CLIP's image head to each mask instead of the whole image.

        Args:
            dense: (B, C, h, w), the feature `clip_vis_dense`.
            mask_logits: (B, Q, h, w), resized to the feature map; a pixel is inside where its logit is positive.

        Returns:
            (B, Q, D) float32, not normalized.
        """
        dense = dense.float()
        if self.is_convnext:
            pooled = mask_pool(dense, mask_logits)
            embedded = self.clip_model.visual.head(self._projection(pooled.flatten(0, 1)[:, :, None, None]))
            return embedded.unflatten(0, pooled.shape[:2])
        return self._attention_pool(dense, mask_logits)

    def embed_whole(self, dense: Tensor) -> Tensor:
        """Embed whole images of any size, from the feature `clip_vis_dense` (B, C, h, w), into (B, D) float32."""
        return self.embed_masks(dense, dense.new_ones(len(dense), 1, *dense.shape[-2:]))[:, 0]

    def _attention_pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Apply CLIP-ResNet's attention pooling with one key mask per query; an empty mask gives the output bias."""
        pool = self.tower.attnpool
        positions = pool.positional_embedding.to(dense.dtype)
        grid = math.isqrt(len(positions) - 1)
        spatial = positions[1:].T.reshape(1, -1, grid, grid)
        spatial = F.interpolate(spatial, size=dense.shape[-2:], mode="bilinear", align_corners=False)
        keys = (dense + spatial).flatten(2).transpose(1, 2)  # (B, HW, C)
        query = dense.mean(dim=(2, 3)).unsqueeze(1) + positions[0]  # (B, 1, C), equal for all masks

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # (B, heads, tokens, C / heads)

        q, k, v = heads(pool.q_proj(query)), heads(pool.k_proj(keys)), heads(pool.v_proj(keys))
        attention = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, heads, 1, HW)
        outside = (mask_logits <= 0).flatten(2).unsqueeze(1)  # (B, 1, Q, HW)
        attention = attention.masked_fill(outside, -math.inf).softmax(dim=-1).nan_to_num()
        return pool.c_proj((attention @ v).transpose(1, 2).flatten(2))


def _weights_changed(backbone: CLIP, _: Any) -> None:
    # No closure, so that a model can be pickled.
    backbone._text_classifiers.clear()
    backbone._copied_stages = None


@BACKBONE_REGISTRY.register()
class TrainableCLIP(CLIP):
    """CLIP with a trained image tower."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "trainable": True}
