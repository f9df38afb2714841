"""The segmentation head: pixel decoder and transformer decoder."""

from typing import Any

from torch import Tensor, nn

from clouds.d2 import SEM_SEG_HEADS_REGISTRY, CfgNode, ShapeSpec, configurable
from clouds.modeling import pixel_decoder as _pixel_decoder  # noqa: F401  (registers the pixel decoder)
from clouds.modeling.structures import Prediction
from clouds.modeling.text_classifier import TextClassifier
from clouds.modeling.transformer_decoder import MaskedTransformerDecoder, build_transformer_decoder


@SEM_SEG_HEADS_REGISTRY.register()
class CLOUDSHead(nn.Module):
    """Pixel decoder and transformer decoder: all that is trained on a frozen backbone."""

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: MaskedTransformerDecoder, num_classes: int) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        pixel_decoder = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)
        return {
            "pixel_decoder": pixel_decoder(cfg, input_shape),
            "predictor": build_transformer_decoder(cfg),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    @property
    def uses_text(self) -> bool:
        """Whether `forward` needs a text classifier."""
        return self.predictor.uses_text

    def forward(
        self,
        features: dict[str, Tensor],
        text: TextClassifier | None,
        void: Tensor | None,
        query_position: Tensor | None = None,
    ) -> list[Prediction]:
        """Predict classes and masks.

        Args:
            features: the backbone's maps (B, C, h, w) by name.
            text: embeddings of the class names; only a text head uses them.
            void: (1, D) learnt embedding of "no object"; only a text head uses it.
            query_position: (Q, C) position embeddings of the decoder's queries; default: its own.

        Returns:
            The last prediction is the result. In training, those before it serve deep supervision; in evaluation,
            there are no others.
        """
        mask_features, maps = self.pixel_decoder(features)
        return self.predictor(maps, mask_features, text, void, query_position)
