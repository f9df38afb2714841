"""Colors of label maps, and overlays of label maps on images."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clouds.data.classes import CITYSCAPES_COLORS

UInt8Array = npt.NDArray[np.uint8]


def colorize(labels: npt.NDArray[np.integer], colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS) -> UInt8Array:
    """Draw a label map in the colors of its classes.

    Args:
        labels: (H, W) train ids, 0..255.
        colors: RGB, 0..255, by train id.

    Returns:
        (H, W, 3) uint8 RGB. Ids without a color, such as ignored pixels, are black.
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def overlay(
    image: UInt8Array,
    labels: npt.NDArray[np.integer],
    colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS,
    opacity: float = 0.5,
) -> UInt8Array:
    """Blend a label map with its image.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) train ids, 0..255.
        colors: RGB, 0..255, by train id.
        opacity: weight of the colors, 0..1.

    Returns:
        (H, W, 3) uint8 RGB. Pixels without a class keep the color of the image.
    """
    blended = image + opacity * (colorize(labels, colors) - image.astype(np.float32))
    return np.where((labels < len(colors))[..., None], np.round(blended), image).astype(np.uint8)
