"""Synthetic scenes for the benchmarks: label maps with frayed regions, and images with texture and grain.

Their statistics resemble those of the real data sets: number and size of regions, and bytes of the PNG files. They are
drawn by NumPy and OpenCV from a seed alone, so that two machines measure on equal data.
"""

import cv2
import numpy as np
from scipy.spatial import KDTree

CLASSES = 19
IGNORE = 255


def label_map(
    size: tuple[int, int], seed: int, *, regions: int = 10, fray: float = 6.0, specks: float = 0.0
) -> np.ndarray:
    """Draw an (H, W) uint8 label map of classes 0..18, with `IGNORE` among the specks.

    Args:
        size: (H, W) in pixels.
        seed: seed of the random generator.
        regions: number of regions along a side; neighbors of one class grow together.
        fray: standard deviation in pixels by which the borders of regions are displaced.
        specks: share of the pixels that get a random class or `IGNORE`, as a network predicts them.
    """
    rng = np.random.default_rng(seed)
    places = np.indices(size).reshape(2, -1).T.astype(np.float64)
    for axis in range(2):
        displacement = cv2.GaussianBlur(rng.standard_normal(size), (0, 0), 3)
        places[:, axis] += (fray / displacement.std()) * displacement.ravel()
    # A jittered grid, so that most regions are of about one size.
    corners = np.indices((regions, regions)).reshape(2, -1).T
    centres = (corners + rng.uniform(0.1, 0.9, corners.shape)) * (np.array(size) / regions)
    region = KDTree(centres).query(places)[1].reshape(size)
    labels = rng.integers(0, CLASSES, regions * regions, dtype=np.uint8)[region]
    chosen = rng.random(size) < specks
    labels[chosen] = rng.choice([*range(CLASSES), IGNORE], chosen.sum())
    return labels


def image(labels: np.ndarray, seed: int, *, grain: float = 1.0) -> np.ndarray:
    """Draw an (H, W, 3) uint8 RGB image of a label map: a color and a shading per class, a texture, and grain.

    Args:
        labels: (H, W) uint8 label map.
        seed: seed of the random generator.
        grain: standard deviation of the noise in grey levels, which determines the bytes of a PNG.
    """
    rng = np.random.default_rng((seed, 1))
    colors = rng.uniform(30, 220, (256, 3)).astype(np.float32)
    texture = cv2.GaussianBlur(rng.standard_normal(labels.shape, dtype=np.float32), (0, 0), 2)
    shading = cv2.GaussianBlur(rng.standard_normal(labels.shape, dtype=np.float32), (0, 0), 40)
    pixels = colors[labels] + (4 * texture / texture.std() + 20 * shading / shading.std())[..., None]
    pixels += rng.normal(0, grain, pixels.shape).astype(np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
