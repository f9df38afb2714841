"""Networks and batches that the stages share: real sizes on a GPU, or the same in miniature."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from scenes import CLASSES, image, label_map
from torch import Tensor

from clouds.clouds import CLOUDS
from clouds.config import load_config
from clouds.d2 import CfgNode, Instances, build_model
from clouds.modeling.structures import ImageDict, MaskFactors, Prediction, Target

CONFIG = Path(__file__).resolve().parents[2] / "configs/warmup/gta/train_gta.yaml"
# A timm ConvNeXt of a few thousand weights with CLIP's projection and text tower.
MINIATURE_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
MINIATURE = {
    "MODEL.CLOUDS.EMBED_DIM": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 8,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs.

    Attributes:
        side: side of a training crop in pixels.
        batch: number of images of a training batch.
        generated: number of generated images in a batch of joint training.
        test: (H, W) of a test image.
    """

    side: int = 768
    batch: int = 8
    generated: int = 2
    test: tuple[int, int] = (1024, 2048)


class Inputs:
    """Model and data of a run, each made on first use. All of them follow from fixed seeds."""

    def __init__(self, device: torch.device, folder: Path, *, smoke: bool) -> None:
        """
        Args:
            device: device of the model.
            folder: folder for temporary files.
            smoke: whether everything is in miniature.
        """
        self.device = device
        self.folder = folder
        self.smoke = smoke
        self.sizes = Sizes(64, 2, 1, (64, 128)) if smoke else Sizes()

    @cached_property
    def cfg(self) -> CfgNode:
        """Config of the warm-up on GTA5 with ConvNeXt-L, random weights."""
        opts: dict[str, Any] = {"MODEL.DEVICE": self.device.type, "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS": ""}
        if self.smoke:
            file = self.folder / "clip.json"
            file.write_text(json.dumps(MINIATURE_CLIP))
            opts |= {**MINIATURE, "MODEL.CLOUDS.CLIP_MODEL_NAME": str(file)}
        return load_config(CONFIG, [str(word) for pair in opts.items() for word in pair])

    @cached_property
    def model(self) -> CLOUDS:
        """CLOUDS in training mode, with random weights."""
        torch.manual_seed(0)
        model = build_model(self.cfg).train()
        assert isinstance(model, CLOUDS)
        return model

    @cached_property
    def pixels(self) -> Tensor:
        """(B, 3, side, side) normalized training images."""
        generator = torch.Generator().manual_seed(0)
        side = self.sizes.side
        return torch.randn(self.sizes.batch, 3, side, side, generator=generator).to(self.device)

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Feature maps of `pixels`, in full float32."""
        with torch.no_grad():
            return {name: maps.clone() for name, maps in self.model.backbone(self.pixels).items()}

    @cached_property
    def decoded(self) -> tuple[Tensor, list[Tensor]]:
        """Mask features and coarse maps of `features`, as leaves that require gradients."""
        with torch.no_grad():
            mask_features, maps = self.model.sem_seg_head.pixel_decoder(self.features)
        return mask_features.detach().requires_grad_(), [each.detach().requires_grad_() for each in maps]

    @cached_property
    def predictions(self) -> list[Prediction]:
        """Outputs of all decoder layers for `decoded`, as leaves that require gradients."""
        mask_features, maps = self.decoded
        outputs = self.model.sem_seg_head.predictor(maps, mask_features, None, self.model.void)
        leaves = []
        for output in outputs:
            factors = MaskFactors(*(tensor.detach().requires_grad_() for tensor in output.mask_factors))
            leaves.append(Prediction(output.class_logits.detach().requires_grad_(), output.mask_logits, factors))
        return leaves

    @cached_property
    def labels(self) -> list[Tensor]:
        """B label maps (side, side) uint8."""
        side = self.sizes.side
        return [torch.from_numpy(label_map((side, side), seed)) for seed in range(self.sizes.batch)]

    @cached_property
    def targets(self) -> list[Target]:
        """Targets of `labels`, on the device."""
        found = [masks_of(labels) for labels in self.labels]
        return [Target(classes.to(self.device), masks.to(self.device)) for classes, masks in found]

    def release(self) -> None:
        """Drop the tensors on the device except the model's; they are made again on next use."""
        for name in ("pixels", "features", "decoded", "predictions", "targets"):
            self.__dict__.pop(name, None)

    def batch(self, generated: int = 0) -> list[ImageDict]:
        """Return a training batch as the loader gives it, on the CPU; the first `generated` images have no labels."""
        batch: list[ImageDict] = []
        for seed, labels in enumerate(self.labels):
            pixels = torch.from_numpy(image(labels.numpy(), seed)).permute(2, 0, 1).contiguous()
            height, width = labels.shape
            entry: ImageDict = {"image": pixels, "height": height, "width": width, "seed": seed, "file_name": str(seed)}
            if seed < generated:
                entry |= {"is_generated": True, "image_clean": pixels.clone()}
            else:
                instances = Instances((height, width))
                instances.gt_classes, instances.gt_masks = masks_of(labels)
                entry["instances"] = instances
            batch.append(entry)
        return batch

    def test_image(self) -> tuple[Tensor, Tensor]:
        """Return a test image (3, H, W) uint8 and its label map (H, W) uint8, on the CPU."""
        labels = label_map(self.sizes.test, 0)
        return torch.from_numpy(image(labels, 0)).permute(2, 0, 1).contiguous(), torch.from_numpy(labels)


def masks_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes (N,) int64 that occur in a label map and their masks (N, H, W) bool."""
    present = labels.unique()
    present = present[present < CLASSES]
    return present.long(), labels == present[:, None, None]
