"""Small files in the formats of the real data sets. The catalogs are restored after each test."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.config import get_config
from clouds.d2 import CfgNode, DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def catalogs() -> Iterator[None]:
    data, metadata = dict(DatasetCatalog), dict(MetadataCatalog)
    yield
    for catalog, before in ((DatasetCatalog, data), (MetadataCatalog, metadata)):
        catalog.clear()
        catalog.update(before)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_config()
    cfg.INPUT.INITIAL_HEIGHT, cfg.INPUT.INITIAL_WIDTH = 40, 64
    cfg.INPUT.CROP_SIZE = (32, 48)
    cfg.INPUT.TEST_SHORT_EDGE = 60
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 7
    return cfg


def smooth_image(seed: int, height: int = 40, width: int = 64) -> Image.Image:
    """An image with edges and gradients; on noise, resampling filters cannot be told apart."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def label_map(seed: int, height: int = 40, width: int = 64, classes: int = 19) -> np.ndarray:
    """(H, W) uint8 blocks of train ids, one of them ignored."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    blocks[0, 0] = 255
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()


def save(path: Path, image: Image.Image | np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
    return str(path)


def write_generated(root: Path, count: int, name: str = "sd_mine") -> None:
    """Write generated images, all wider than a training crop, two in three with a size of their own."""
    for number in range(count):
        size = (40, 64) if number % 3 == 0 else (24 + number, 80)
        save(root / f"stable_diffusion/{name}/images/im_{number}_p{number % 2}.png", smooth_image(100 + number, *size))


def write_gta5(root: Path, count: int) -> None:
    for number in range(1, count + 1):
        save(root / f"gta5/images/{number:05d}.png", smooth_image(number))
        save(root / f"gta5/labels/{number:05d}_labelTrainIds.png", label_map(number))
