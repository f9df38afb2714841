"""Colors of label maps, and overlays of label maps on images."""

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clouds.d2 import MetadataCatalog
from clouds.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_COLORS, split_synonyms

UInt8Array = npt.NDArray[np.uint8]

Color = tuple[int, int, int]
"""RGB, 0..255."""

_PIXELS_AT_ONCE = 1 << 18  # of an overlay, whose colors are floats for a few rows only
_TURN = 0.618034  # golden ratio: neighbors on the circle of hues are far apart, however many there are


def colors_of(classes: Sequence[str]) -> tuple[Color, ...]:
    """Return a color for each class: that of the class of Cityscapes with a common synonym, or one of its own.

    Args:
        classes: names of classes, synonyms separated by commas.
    """
    known = {
        synonym: color
        for name, color in zip(CITYSCAPES_CLASSES, CITYSCAPES_COLORS, strict=True)
        for synonym in split_synonyms(name)
    }
    return tuple(
        next((known[synonym] for synonym in split_synonyms(name) if synonym in known), _color(number))
        for number, name in enumerate(classes)
    )


def data_set_colors(name: str, classes: Sequence[str]) -> tuple[Color, ...]:
    """Return a color for each class: that of a data set, or that of :func:`colors_of` if the data set has too few.

    Args:
        name: name of the data set; one that is not registered has no colors.
        classes: names of the classes, synonyms separated by commas.
    """
    colors = getattr(MetadataCatalog.get(name), "stuff_colors", ())[: len(classes)]
    return tuple((r, g, b) for r, g, b in colors) if len(colors) == len(classes) else colors_of(classes)


def _color(number: int) -> Color:
    """Return a color that differs from those of the numbers nearby, in hue and brightness."""
    r, g, b = colorsys.hsv_to_rgb(number * _TURN % 1, 0.9 - 0.4 * (number % 2), 1 - 0.3 * (number // 2 % 2))
    return round(255 * r), round(255 * g), round(255 * b)


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
    result = np.empty_like(image)
    step = max(1, _PIXELS_AT_ONCE // labels.shape[1])
    for top in range(0, len(labels), step):
        rows = slice(top, top + step)
        pixels, own = image[rows], labels[rows]
        blended = pixels + opacity * (colorize(own, colors) - pixels.astype(np.float32))
        result[rows] = np.where((own < len(colors))[..., None], np.round(blended), pixels)
    return result
