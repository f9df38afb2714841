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
from typing import Self

from torch import Tensor

from clouds.d2 import Backbone, ShapeSpec
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


class SegmentationBackbone(Backbone):
    """Backbone that turns images into feature maps of several strides, with or without a text tower.

    Subclasses define `forward`, `output_shape` and `size_divisibility`.

    Attributes:
        pixel_mean: mean of R, G and B that images are normalized with, in 0..255.
        pixel_std: standard deviation of R, G and B, in 0..255.
        trainable: whether the feature maps are trained. A frozen backbone stays in evaluation mode, gives features
            without gradient, and its features are shared by student and teacher.
        reloadable: whether the backbone loads its frozen weights from their source when it is built. If not,
            checkpoints must contain them.
    """

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        trainable: bool,
        reloadable: bool,
    ) -> None:
        super().__init__()
        self.pixel_mean = tuple(pixel_mean)
        self.pixel_std = tuple(pixel_std)
        self.trainable = trainable
        self.reloadable = reloadable

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

    @property
    def text_tower(self) -> TextTower | None:
        """The text tower, needed by text heads and by the geometric ensemble; None if there is none."""
        return None

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen backbone stays in evaluation mode, so that its norms do not change."""
        return super().train(mode and self.trainable)
