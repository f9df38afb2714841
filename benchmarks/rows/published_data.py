"""Synthetic files of the data sets, and the published steps that read them, with Pillow, NumPy, OpenCV and torch.

The files have the sizes and formats of the real data sets: palette PNGs with frayed regions (GTA5: 1052 x 1914), 16-bit
RGB (SYNTHIA: 760 x 1280), and images with so much grain that a PNG has about 2.3 MB, as GTA5's have on average (label
maps there: 28 kB).

The published steps, one by one. Label map: one mask per id, and its sum for the statistics. Training sample: the label
map in double precision, image and label map resized as a whole and then cropped, color jitter in float32, one mask per
class. They do not check the files for damage; ours do.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from scenes import IGNORE, image, label_map
from torch.nn.functional import interpolate
from torch.nn.functional import pad as pad_tensor

from clouds.d2 import CfgNode
from clouds.data.classes import CITYSCAPES_ID_TO_TRAIN_ID, SYNTHIA_ID_TO_TRAIN_ID

_DIVISIBILITY = 32


def scene(index: int, size: tuple[int, int]) -> np.ndarray:
    """Draw an (H, W) uint8 label map whose PNG has about as many bytes as one of the data set."""
    return label_map(size, index, regions=6, fray=3.0)


def write_gta5(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Write images under `images` and palette PNGs of Cityscapes ids under `labels`."""
    to_id = {train_id: label_id for label_id, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items()}
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        labels = scene(index, size)
        Image.fromarray(image(labels, index, grain=0.7)).save(folder / f"images/{index:05d}.png")
        ids = Image.fromarray(translated(labels, to_id), "P")
        ids.putpalette([value for i in range(256) for value in (i, i * 7 % 256, 255 - i)])
        ids.save(folder / f"labels/{index:05d}.png")


def write_synthia(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Write 16-bit RGB label maps: the class in red, the number of a connected component in green."""
    to_class = {train_id: label_id for label_id, train_id in SYNTHIA_ID_TO_TRAIN_ID.items()}
    (folder / "GT/LABELS").mkdir(parents=True)
    for index in range(images):
        labels = translated(scene(index, size), to_class)
        things = cv2.connectedComponents(np.isin(labels, (8, 10, 11, 12, 17, 19)).astype(np.uint8))[1]
        pixels = np.stack([np.zeros(labels.shape), things, labels], axis=-1).astype(np.uint16)
        assert cv2.imwrite(str(folder / f"GT/LABELS/{index:07d}.png"), pixels)


def translated(labels: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    ids = np.zeros_like(labels)
    for source, target in table.items():
        ids[labels == source] = target
    return ids


def published_ids(table: Mapping[int, int], source: Path) -> np.ndarray:
    if table is SYNTHIA_ID_TO_TRAIN_ID:  # Pillow cannot read 16-bit RGB
        return cv2.imread(str(source), cv2.IMREAD_UNCHANGED)[:, :, -1]
    return np.asarray(Image.open(source))


def published_image(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def published_conversion(table: Mapping[int, int], pair: tuple[Path, Path]) -> dict[int, int]:
    source, target = pair
    ids = published_ids(table, source)
    label = np.full(ids.shape, IGNORE, np.uint8)
    counts = {}
    for label_id, train_id in table.items():
        mask = ids == label_id
        label[mask] = train_id
        if count := int(np.sum(mask)):
            counts[train_id] = count
    Image.fromarray(label).save(target)
    return counts


def published_sample(cfg: CfgNode, record: Mapping[str, str], rng: np.random.Generator) -> dict[str, Any]:
    """Make a training sample in the published way.

    Args:
        cfg: section INPUT of the config.
        record: paths of image and label map.
        rng: random generator of the augmentation.

    Returns:
        `image` (3, H, W) uint8, `sem_seg` (H, W) int64, `classes` (N,) and `masks` (N, H, W) bool.
    """
    image = published_image(record["file_name"])
    label = np.asarray(Image.open(record["sem_seg_file_name"])).astype("double")

    scale = rng.uniform(*cfg.SCALE_RANGE)
    factor = scale * min(cfg.INITIAL_HEIGHT / image.shape[0], cfg.INITIAL_WIDTH / image.shape[1])
    height, width = (round(side * factor) for side in image.shape[:2])
    image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    label = interpolate(torch.from_numpy(label)[None, None], (height, width), mode="nearest")[0, 0].numpy()

    crop = cfg.CROP_SIZE
    top, left = (round(rng.random() * max(0, side - want)) for side, want in zip((height, width), crop, strict=True))
    image, label = image[top : top + crop[0], left : left + crop[1]], label[top : top + crop[0], left : left + crop[1]]
    missing = [(0, max(0, want - side)) for want, side in zip(crop, label.shape, strict=True)]
    image = np.pad(image, [*missing, (0, 0)], constant_values=0)
    label = np.pad(label, missing, constant_values=IGNORE)

    image = published_jitter(image, rng)
    if rng.random() < 0.5:
        image, label = np.flip(image, axis=1), np.flip(label, axis=1)

    pixels = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
    sem_seg = torch.as_tensor(label.astype("long"))
    padding = [0, -sem_seg.shape[1] % _DIVISIBILITY, 0, -sem_seg.shape[0] % _DIVISIBILITY]
    pixels = pad_tensor(pixels, padding, value=128).contiguous()
    sem_seg = pad_tensor(sem_seg, padding, value=IGNORE).contiguous()
    target = sem_seg.numpy()
    classes = np.unique(target)
    classes = classes[classes != IGNORE]
    masks = torch.stack([torch.from_numpy(mask.copy()) for mask in [target == c for c in classes]])
    return {"image": pixels, "sem_seg": sem_seg, "classes": torch.as_tensor(classes), "masks": masks}


def published_jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply the color jitter of SSD to an RGB image, in BGR: each step in float32, then rounded to uint8."""
    brighten, contrast_first, contrast, saturate, turn = rng.random(5) < 0.5
    offset = rng.uniform(-32, 32)
    gain, chroma = rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    angle = int(rng.integers(-18, 19))

    def linear(array: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(array.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    image = image[:, :, [2, 1, 0]]
    if brighten:
        image = linear(image, beta=offset)
    if contrast and contrast_first:
        image = linear(image, alpha=gain)
    if saturate:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 1] = linear(hsv[:, :, 1], alpha=chroma)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if turn:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + angle) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if contrast and not contrast_first:
        image = linear(image, alpha=gain)
    return image[:, :, [2, 1, 0]]
