"""The contract of a backbone: what the head, the model, the trainer and the checkpointer ask.

A new backbone is a subclass of `SegmentationBackbone` in detectron2's `BACKBONE_REGISTRY`; `MODEL.BACKBONE.NAME` names
it. It is called with (cfg, ShapeSpec of the image). `tests/modeling/test_backbone.py` has a small example.

The head adds these requirements, which depend on the config:

* the feature maps have the names in `MODEL.SEM_SEG_HEAD.IN_FEATURES` (default: res2 to res5);
* `DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES` names three of them (default: res3 to res5, strides 8, 16 and 32), and
  one map of stride `COMMON_STRIDE` (default: 4) remains for the mask features; with a coarser finest map, masks are
  coarser;
* strides divide `size_divisibility`, and images are padded to multiples of it and of
  `MODEL.MASK_FORMER.SIZE_DIVISIBILITY`.

Letters: B images, H x W network input, h x w feature map, Q masks, C channels, K classes, D dimension of text space.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from clouds.d2 import Backbone, CfgNode, ShapeSpec
from clouds.modeling.backbone.towers import layer_patterns, tower_blocks
from clouds.modeling.text_classifier import TextClassifier


class TextTower(ABC):
    """Space that images and text share, for a backbone that was trained with text."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D, dimension of the space."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """Logarithm of the inverse temperature of the cosine similarity, scalar."""

    @property
    @abstractmethod
    def dense_feature(self) -> str:
        """Name of the feature map that `embed_masks` takes."""

    @abstractmethod
    def text_classifier(self, class_names: Sequence[str]) -> TextClassifier:
        """Embed K class names; synonyms are separated by commas."""

    @abstractmethod
    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed the image region under each mask.

        Args:
            dense: (B, C, h, w), the feature `dense_feature`.
            mask_logits: (B, Q, h, w); a pixel is inside a mask where its logit is positive.

        Returns:
            (B, Q, D) float32 of any norm.
        """


@dataclass(frozen=True)
class TokenLayout:
    """Layout of the tokens (B, N, C) that the blocks of a transformer map.

    Attributes:
        width: C, channels of a token.
        prefix: number of tokens before those of the patches, such as the class token and registers.
    """

    width: int
    prefix: int


class Adapter(nn.Module):
    """Trained change of a frozen tower. Its parameters are its own or those of layers that it has put into the tower.

    It starts without an effect on the feature maps.
    """

    @property
    def queries(self) -> Tensor | None:
        """(m, hidden_dim) position embeddings for the queries of the transformer decoder; None if it has none."""
        return None

    def merge(self) -> None:
        """Add the change to the weights of the tower and remove the adapter; called by `SegmentationBackbone.merge`.

        Raises:
            ValueError: no weights of the tower have the effect of the adapter.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be merged: what it adds depends on the image, so that no weights of the "
            "tower have its effect"
        )

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the plain settings of a file of the adapter alone.

        Raises:
            ValueError: the adapter has no such file.
        """
        raise ValueError(f"{type(self).__name__} has no file of its own")

    def load_exported(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        """Take the values that `exported` returned.

        Raises:
            ValueError: they are those of another adapter or tower.
        """
        raise ValueError(f"{type(self).__name__} has no file of its own")


@dataclass(frozen=True)
class TowerSource:
    """Names by which a config builds a tower and finds its weights.

    Attributes:
        model: config key with the name of the model, and this name.
        weights: config key with the tag or file of the weights, and its value; "" if the model's name stands for them.
        is_published: whether these are names of a hub, and of no file of this machine.
        file: path of the file of `architecture` in the folder of a saved network, with a `*` for its digest. The config
            there names the model by this path, without ``/config.json``.
        architecture: content of a JSON file that describes the model without its weights.
    """

    model: tuple[str, str]
    weights: tuple[str, str]
    is_published: bool
    file: str
    architecture: dict[str, Any]


class SegmentationBackbone(Backbone):
    """Backbone that turns images into feature maps of several strides, with or without a text tower.

    Subclasses define `forward`, `output_shape` and `size_divisibility`. One that can be adapted also defines `tower`
    and, for a transformer, `tokens`; if its blocks or linear layers have other names than those of timm, also `blocks`
    and `adapter_patterns`.

    For moving averages, such as the teacher, a trained backbone is copied by `copy.deepcopy`, with frozen tensors
    shared. So hooks are bound methods of its modules, or `functools.partial` of these, not closures, which would stay
    bound to the original; and between two calls no attribute holds a tensor with a gradient function.

    Attributes:
        pixel_mean: mean of R, G and B that images are normalized with, in 0..255.
        pixel_std: standard deviation of R, G and B, in 0..255.
        trainable: whether the feature maps change in training, because the tower or an adapter is trained. A frozen
            backbone gives features without gradient, which student and teacher share.
        reloadable: whether the backbone loads its frozen weights from their source when it is built. If not,
            checkpoints must contain them.
        checkpointing: whether the activations of a trained or adapted tower are recomputed in the backward pass, block
            by block, which takes less memory and more time. `tower` then has timm's method `set_grad_checkpointing`.
        adapter: trained change of the frozen tower, see `adapt`; None without one.
    """

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        trainable: bool,
        reloadable: bool,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.pixel_mean = tuple(pixel_mean)
        self.pixel_std = tuple(pixel_std)
        self.trainable = trainable
        self.reloadable = reloadable
        self.checkpointing = checkpointing
        self.adapter: Adapter | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps.

        Args:
            images: (B, 3, H, W) float, normalized; H and W are multiples of `size_divisibility`.

        Returns:
            Maps (B, C, H / stride, W / stride) by name, as `output_shape` describes them.
        """

    @abstractmethod
    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map by name."""

    @property
    @abstractmethod
    def size_divisibility(self) -> int:
        """Number that height and width of the input must be multiples of; 0 or 1 = any size."""

    def source(self, cfg: CfgNode) -> TowerSource | None:
        """Return the source that a config names for the tower, for saved networks; None if it has none."""
        return None

    @property
    def text_tower(self) -> TextTower | None:
        """The text tower, needed by text heads and by the geometric ensemble; None if there is none."""
        return None

    @property
    def tower(self) -> nn.Module:
        """The pretrained module that computes the feature maps."""
        return self

    @property
    def blocks(self) -> list[nn.Module]:
        """The tower's residual blocks in the order in which they compute; empty if it has none."""
        return tower_blocks(self.tower)

    @property
    def adapter_patterns(self) -> tuple[str, ...]:
        """Regular expressions for the names, inside a block, of the linear layers that an adapter changes by default.

        A name must match one of them completely. Empty: the tower cannot be adapted.
        """
        return layer_patterns(self.blocks)

    @property
    def tokens(self) -> TokenLayout | None:
        """Layout of the tokens that `blocks` map; None for a pyramid of convolutions."""
        return None

    @property
    def queries(self) -> Tensor | None:
        """(m, hidden_dim) position embeddings that an adapter gives the decoder's queries; None if there are none."""
        return None if self.adapter is None else self.adapter.queries

    def adapt(self, adapter: Adapter) -> None:
        """Add an adapter to the frozen tower: the feature maps get a gradient, and the adapter alone is trained.

        Raises:
            ValueError: the tower is trained, or has an adapter already.
        """
        if self.trainable:
            raise ValueError("the tower is trained or adapted already; an adapter needs a frozen tower")
        self.adapter, self.trainable = adapter, True
        self.train(self.training)

    def merge(self) -> None:
        """Replace the tower and its adapter by a frozen tower with equal features, whose weights have no other source.

        Raises:
            ValueError: there is no adapter, or it cannot be merged.
        """
        if self.adapter is None:
            raise ValueError("the tower has no adapter to merge")
        self.adapter.merge()
        self.adapter, self.trainable, self.reloadable = None, False, False
        self.load_state_dict(self.state_dict())  # what a backbone has computed from its weights is computed anew
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen tower, adapted or not, stays in evaluation mode: its norms do not change."""
        super().train(mode and self.trainable and self.adapter is None)
        if self.adapter is not None:
            self.adapter.train(mode)
        if self.checkpointing:
            tower: Any = self.tower
            tower.set_grad_checkpointing(mode and self.trainable)
        return self


def backbone_of(model: nn.Module) -> SegmentationBackbone | None:
    """Return the attribute ``backbone`` of a model; None if it is no `SegmentationBackbone`."""
    backbone = dict(model.named_children()).get("backbone")
    return backbone if isinstance(backbone, SegmentationBackbone) else None
