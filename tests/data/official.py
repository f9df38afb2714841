"""Label files in the formats of the downloads: names, modes, bit depths, ids."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.data.conftest import save

PALETTE = [value for index in range(256) for value in (index, 255 - index, index * 7 % 256)]


def palette_png(path: Path, ids: np.ndarray) -> Path:
    """Write the format of GTA5 and Mapillary Vistas: mode P, the index is the id."""
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(PALETTE)
    save(path, image)
    return path


def synthia_png(path: Path, ids: np.ndarray) -> Path:
    """Write the format of SYNTHIA, 16-bit RGB: class in red, instance in green, blue is 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blue_green_red = np.zeros((*ids.shape, 3), np.uint16)
    blue_green_red[..., 1] = np.arange(ids.size).reshape(ids.shape) % 300
    blue_green_red[..., 2] = ids
    assert cv2.imwrite(str(path), blue_green_red)
    return path


def urbansyn_png(path: Path, ids: np.ndarray) -> Path:
    """Write the format of UrbanSyn: RGBA, the three colors of a pixel are its train id, or 19."""
    opaque = np.full(ids.shape, 255)
    save(path, np.stack([ids, ids, ids, opaque], axis=-1).astype(np.uint8))
    return path


def cityscapes_polygons(path: Path, height: int = 40, width: int = 64) -> Path:
    """Write overlapping shapes, some partly outside, a group, a license plate, a deleted shape."""
    shapes = [
        ("sky", [[0, 0], [width, 0], [width, 20], [0, 20]], 0),
        ("road", [[0, 20], [width, 18], [width + 9, height], [-4, height]], 0),
        ("cargroup", [[5, 22], [20, 22], [20, 33], [5, 33]], 0),
        ("license plate", [[8, 30], [12, 30], [12, 32], [8, 32]], 0),
        ("person", [[30, 10], [35, 10], [36, 30], [29, 30]], 0),
        ("bus", [[40, 5], [60, 5], [60, 30], [40, 30]], 1),
        ("rail track", [[40, 25], [63, 25], [63, 28]], 0),
        ("ego vehicle", [[0, 36], [width, 36], [width, height], [0, height]], 0),
    ]
    objects = [
        {"label": label, "polygon": polygon, "deleted": deleted, "verified": 1, "id": number}
        for number, (label, polygon, deleted) in enumerate(shapes)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": objects}))
    return path


def blocks(seed: int, ids: range, height: int = 40, width: int = 64) -> np.ndarray:
    """(H, W) int blocks of these ids; each id occurs if there is room."""
    rng = np.random.default_rng(seed)
    coarse = rng.permutation(np.resize(np.asarray(ids), (height // 8) * (width // 8)))
    return coarse.reshape(height // 8, width // 8).repeat(8, axis=0).repeat(8, axis=1)
