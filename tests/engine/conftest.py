"""A segmentation task that a single 1x1 convolution learns, as PNG files, and the architecture that learns it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from clouds.config import get_config
from clouds.d2 import META_ARCH_REGISTRY, CfgNode, ShapeSpec
from clouds.data.datasets import catalog
from clouds.modeling.backbone import SegmentationBackbone

CLASSES = ("road,street", "grass", "sky")
COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


class TinyBackbone(SegmentationBackbone):
    """One frozen convolution and a norm with statistics of its own."""

    def __init__(self, *, reloadable: bool) -> None:
        grey = (127.5, 127.5, 127.5)
        super().__init__(pixel_mean=grey, pixel_std=grey, trainable=False, reloadable=reloadable)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).requires_grad_(False)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=8, stride=1)}

    @property
    def size_divisibility(self) -> int:
        return 1

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"map": self.layers(images)}


class TinySegmenter(nn.Module):
    """A frozen backbone, a norm, and a trained head: the parts that checkpoints must distinguish."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.backbone = TinyBackbone(reloadable=bool(cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS))
        self.norm = nn.GroupNorm(2, 8)
        self.sem_seg_head = nn.Conv2d(8, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)
        self.register_buffer("needed", torch.ones(2))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        outputs = []
        for sample in batch:
            image = sample["image"].float()[None] / 127.5 - 1
            outputs.append(self.sem_seg_head(self.norm(self.backbone(image)["map"])))
        if not self.training:
            sizes = [(sample["height"], sample["width"]) for sample in batch]
            return [{"sem_seg": F.interpolate(o, s, mode="bilinear")[0]} for o, s in zip(outputs, sizes, strict=True)]
        truth = torch.stack([sample["sem_seg"] for sample in batch]).long()
        scores = torch.cat(outputs)
        # The second term draws from torch's generator, as the point sampling of the real criterion does.
        noise = torch.rand(()) * 1e-3 * scores.square().mean()
        return {"loss_ce": F.cross_entropy(scores, truth, ignore_index=255), "loss_noise": noise}


if "TinySegmenter" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(TinySegmenter)


def write_images(folder: Path, count: int, size: tuple[int, int] = (24, 32), seed: int = 0) -> None:
    """``folder/images/<n>.png`` and ``folder/labels/<n>_labelTrainIds.png``: three bands in their classes' colors."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(count):
        cuts = np.sort(rng.integers(4, size[0] - 4, 2))
        labels = np.searchsorted(cuts, np.arange(size[0]), side="right").astype(np.uint8)
        labels = np.repeat(labels[:, None], size[1], axis=1)
        noise = rng.integers(-20, 20, (*size, 3))
        image = np.clip(np.array(COLORS)[labels] + noise, 0, 255).astype(np.uint8)
        labels[0, 0] = 255
        Image.fromarray(image).save(folder / f"images/{number}.png")
        Image.fromarray(labels).save(folder / f"labels/{number}_labelTrainIds.png")


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    write_images(root / "train", 6)
    write_images(root / "val", 3, seed=1)
    return root


@pytest.fixture
def tiny_sets(tiny_root: Path) -> Path:
    """Registers ``tiny_train`` and ``tiny_val``."""
    for split in ("train", "val"):
        name, folder = f"tiny_{split}", tiny_root / split

        def load(name: str = name, folder: Path = folder) -> list[dict]:
            return catalog.pair_by_stem(name, folder / "images", ".png", folder / "labels", "_labelTrainIds.png")

        catalog.register(name, load, classes=CLASSES, colors=COLORS)
    return tiny_root


@pytest.fixture
def tiny_cfg(tiny_sets: Path, tmp_path: Path) -> CfgNode:
    """Four images of 24x24 a step, evaluation every 5 of 10 iterations, no images for TensorBoard, else defaults."""
    cfg = get_config()
    cfg.MODEL.META_ARCHITECTURE = "TinySegmenter"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(CLASSES)
    cfg.MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS = "somewhere"
    cfg.INPUT.INITIAL_HEIGHT, cfg.INPUT.INITIAL_WIDTH = 24, 32
    cfg.INPUT.CROP_SIZE = (24, 24)
    cfg.INPUT.TEST_SHORT_EDGE = 0
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_train",), ("tiny_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    cfg.TEST.EVAL_PERIOD, cfg.TEST.SHOWN_IMAGES = 5, 0
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.SEED = 3
    return cfg
