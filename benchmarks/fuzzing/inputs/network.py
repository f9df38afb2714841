"""A network of a few numbers with a frozen backbone, and a data set of four images, for checkpoints and runs."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from clouds.config import get_config
from clouds.d2 import META_ARCH_REGISTRY, CfgNode, ShapeSpec
from clouds.data.datasets import catalog
from clouds.modeling.backbone import SegmentationBackbone

CLASSES = ("road", "sky")
_GREY = (127.5, 127.5, 127.5)


class FuzzBackbone(SegmentationBackbone):
    """One frozen convolution, whose weights are always the same."""

    def __init__(self) -> None:
        super().__init__(pixel_mean=_GREY, pixel_std=_GREY, trainable=False, reloadable=True)
        self.layer = nn.Conv2d(3, 4, 1).requires_grad_(False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 12).view(4, 3, 1, 1))
            self.layer.bias.zero_()

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=4, stride=1)}

    @property
    def size_divisibility(self) -> int:
        return 1

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"map": self.layer(images)}


class FuzzSegmenter(nn.Module):
    """Frozen backbone, norm and linear classes."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.backbone = FuzzBackbone()
        self.norm = nn.GroupNorm(2, 4)
        self.sem_seg_head = nn.Conv2d(4, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        maps = [self.norm(self.backbone(each["image"].float()[None] / 127.5 - 1)["map"]) for each in batch]
        scores = [self.sem_seg_head(each) for each in maps]
        if not self.training:
            sizes = [(each["height"], each["width"]) for each in batch]
            return [{"sem_seg": F.interpolate(s, size)[0]} for s, size in zip(scores, sizes, strict=True)]
        truth = torch.stack([each["sem_seg"] for each in batch]).long()
        return {"loss_ce": F.cross_entropy(torch.cat(scores), truth, ignore_index=255)}


def tiny_config(output: Path) -> CfgNode:
    """Return the config of a training of four iterations, with a checkpoint and an evaluation at every second one."""
    if "FuzzSegmenter" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(FuzzSegmenter)
    cfg = get_config()
    cfg.MODEL.META_ARCHITECTURE = "FuzzSegmenter"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(CLASSES)
    cfg.INPUT.INITIAL_HEIGHT, cfg.INPUT.INITIAL_WIDTH = 8, 12
    cfg.INPUT.CROP_SIZE = (8, 8)
    cfg.INPUT.TEST_SHORT_EDGE = 0
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("fuzz_train",), ("fuzz_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 4
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD = 2
    cfg.OUTPUT_DIR = str(output)
    cfg.SEED = 3
    return cfg


def register_tiny_sets(folder: Path) -> None:
    """Register fuzz_train and fuzz_val, whose files are written to `folder` if they are not there."""
    for split in ("train", "val"):
        images, labels = folder / split / "images", folder / split / "labels"
        if not images.is_dir():
            images.mkdir(parents=True)
            labels.mkdir()
            pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
            for number in range(2):
                Image.fromarray(pixels + number).save(images / f"{number}.png")
                Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(labels / f"{number}.png")

        def load(name: str = f"fuzz_{split}", images: Path = images, labels: Path = labels) -> list[dict]:
            return catalog.pair_by_stem(name, images, ".png", labels, ".png")

        catalog.register(f"fuzz_{split}", load, classes=CLASSES, colors=((0, 0, 0), (255, 255, 255)))
