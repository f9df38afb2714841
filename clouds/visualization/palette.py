"""Label maps as pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clouds.data.classes import CITYSCAPES_COLORS

UInt8Array = npt.NDArray[np.uint8]


def colorize(labels: npt.NDArray[np.integer], colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS) -> UInt8Array:
    """(H, W) train ids 0..255 -> (H, W, 3) uint8 RGB; ids without a colour (ignore) are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def overlay(
    image: UInt8Array,
    labels: npt.NDArray[np.integer],
    colors: Sequence[Sequence[int]] = CITYSCAPES_COLORS,
    opacity: float = 0.5,
) -> UInt8Array:
    """Labels painted over a picture of the same size; where a pixel has no class the picture stays as it is.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) train ids 0..255.
        colors: RGB by train id.
        opacity: of the labels, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    painted = image + opacity * (colorize(labels, colors) - image.astype(np.float32))
    return np.where((labels < len(colors))[..., None], np.round(painted), image).astype(np.uint8)
