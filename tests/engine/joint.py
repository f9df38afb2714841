"""A small joint training: a set of generated images beside the labelled one, and a SAM without a network."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode
from clouds.engine.trainer import Trainer
from clouds.self_training.sam import Embedding, Sam
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import MODULE

# Appended to `MODULE`. The generated images have label maps, used for measurements only.
GENERATED = """
    folder = root / "generated"
    def generated():
        pairs = catalog.pair_by_stem(
            "plugin_generated", folder / "images", ".png", folder / "labels", "_labelTrainIds.png")
        return [{"file_name": pair["file_name"], "image_id": pair["image_id"], "is_generated": True,
                 "truth_file_name": pair["sem_seg_file_name"]} for pair in pairs]
    catalog.register("plugin_generated", generated, classes=CLASSES, colors=COLORS)
"""
JOINT_MODULE = MODULE + GENERATED
JOINT = [
    *("DATASETS.TRAIN", ("plugin_train", "plugin_generated"), "DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"),
    *("DATASETS.TARGET_FACTOR", 1.5, "MODEL.BACKBONE.NAME", "CLIP"),
    *("MODEL.CLOUDS.SAM.MINIBATCH", True, "MODEL.CLOUDS.SAM.ENABLED", True, "MODEL.CLOUDS.SAM.SIZE_THRESHOLD", 12),
    *("MODEL.CLOUDS.SAM.ALPHA_EMA", 0.5, "MODEL.CLOUDS.ITERATION_UPDATE", 3),
    *("SEED", 7),  # with this seed, the head of `JointTrainer` initially predicts two classes in every image
]


def write_joint_images(root: Path, *, train: int, val: int) -> None:
    """Write the images of `JOINT_MODULE`: a number of labelled ones and of test images, and three generated ones."""
    write_images(root / "train", train)
    write_images(root / "val", val, seed=1)
    write_images(root / "generated", 3, size=(28, 40), seed=2)


class BoxSam(Sam):
    """Predicts the bounding box of each prompt's points, two pixels wider on each side."""

    model_id = "boxes"

    def encode(self, images: Sequence[Tensor]) -> list[Embedding]:
        return [Embedding((image.shape[1], image.shape[2]), ()) for image in images]

    def predict(self, embedding: Embedding, points: Tensor) -> Tensor:
        masks = torch.zeros(len(points), *embedding.size, dtype=torch.bool)
        for mask, prompt in zip(masks, points, strict=True):
            left, top = (prompt.amin(dim=0).long() - 2).clamp(min=0)
            right, bottom = prompt.amax(dim=0).long() + 3
            mask[top:bottom, left:right] = True
        return masks


class JointTrainer(Trainer):
    """Trainer with `BoxSam` instead of a SAM with weights, and with a head that is confident from the start."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if cfg.MODEL.CLOUDS.SAM.MINIBATCH:
            predictor = model.sem_seg_head.predictor
            with torch.no_grad():
                predictor.class_embed.weight.mul_(20)
                predictor.mask_embed.layers[-1].weight.mul_(20)
        return model

    @classmethod
    def build_sam(cls, cfg: CfgNode) -> Sam:
        return BoxSam()
