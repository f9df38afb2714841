"""The named peer: Mask2Former of Hugging Face transformers, with a ConvNeXt of the sizes of the backbone."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ConvNextConfig, Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from clouds.modeling.structures import Target

PEER = "HF Mask2Former"


def build_peer(*, smoke: bool) -> Mask2FormerForUniversalSegmentation:
    """Build the peer with random weights and a frozen backbone: ConvNeXt-L, or one in miniature."""
    depths, widths = ([1, 1, 1, 1], [8, 8, 16, 16]) if smoke else ([3, 3, 27, 3], [192, 384, 768, 1536])
    stages = [f"stage{number}" for number in range(1, 5)]
    backbone = ConvNextConfig(depths=depths, hidden_sizes=widths, out_features=stages)
    sizes: dict[str, Any] = {"dim_feedforward": 2048, "encoder_feedforward_dim": 1024, "num_queries": 100}
    if smoke:
        sizes = {
            **dict.fromkeys(("dim_feedforward", "encoder_feedforward_dim", "feature_size", "mask_feature_size"), 32),
            **dict.fromkeys(("hidden_dim",), 32),
            "num_queries": 8,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "train_num_points": 64,
        }
    settings = Mask2FormerConfig(backbone_config=backbone, num_labels=19, dropout=0.0, use_auxiliary_loss=True, **sizes)
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(settings)
    model.model.pixel_level_module.encoder.requires_grad_(False)
    return model


class PeerStep:
    """A training step of the peer: forward, loss, backward, clipping by norm, AdamW."""

    def __init__(self, model: Mask2FormerForUniversalSegmentation, pixels: Tensor, targets: list[Target]) -> None:
        self.model = model.to(pixels.device).train()
        self.pixels = pixels
        self.masks = [target.masks.float() for target in targets]
        self.classes = [target.labels for target in targets]
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=pixels.is_cuda)

    def __call__(self) -> float:
        output = self.model(pixel_values=self.pixels, mask_labels=self.masks, class_labels=self.classes)
        self.optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 0.01)
        self.optimizer.step()
        return output.loss.item()


def peer_labels(model: Mask2FormerForUniversalSegmentation, pixels: Tensor) -> Tensor:
    """Return the label map (H, W) uint8 of one normalized image (1, 3, H, W), on the CPU."""
    output = model(pixel_values=pixels)
    masks = F.interpolate(output.masks_queries_logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())[0].argmax(0).byte().cpu()
