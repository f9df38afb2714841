"""Random views of an image and its label map: scale, crop, color jitter, flip.

All functions depend on their arguments and a random generator alone.

Legend: (H, W) size of the image in its file; (h, w) size of the whole scaled image.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.d2 import CfgNode
from clouds.data.classes import IGNORE_LABEL
from clouds.data.preparation.class_statistics import count_values

_MAX_CROPS = 10
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Window:
    """Rectangle in a scaled image; all lengths are pixels of the scaled image."""

    scaled_height: int
    scaled_width: int
    top: int
    left: int
    height: int
    width: int


class RequiredClass(NamedTuple):
    """Class that a crop should show.

    Attributes:
        label: train id of the class.
        min_pixels: number of its pixels that the crop should have.
    """

    label: int
    min_pixels: float


def scaled_size(size: tuple[int, int], box: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the size (h, w) of the largest image with the aspect ratio of `size` that fits into `scale` * `box`.

    Args:
        size: (H, W) of the image.
        box: (height, width) in pixels.
        scale: factor on `box`.
    """
    height, width = size
    factor = min(box[0] * scale / height, box[1] * scale / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def draw_window(rng: np.random.Generator, scaled: tuple[int, int], crop: tuple[int, int] | None) -> Window:
    """Draw the place of a crop.

    Row and column are drawn independently (a single number for both would only reach the diagonal). Both are always
    drawn, so that later draws do not depend on the sizes.

    Args:
        rng: random generator.
        scaled: (h, w) of the scaled image.
        crop: (height, width) of the crop; None for the whole image. The window is no larger than the image.
    """
    height, width = scaled if crop is None else (min(scaled[0], crop[0]), min(scaled[1], crop[1]))
    top = round(rng.random() * (scaled[0] - height))
    left = round(rng.random() * (scaled[1] - width))
    return Window(*scaled, top, left, height, width)


def resize_window(image: Image.Image, window: Window) -> UInt8Array:
    """Compute a window of the scaled image (bilinear, antialiased) without scaling the rest.

    Pillow's filter reads across the edge of its argument `box`, so the result is that of resizing and then cropping, up
    to the rounding of the box.

    Args:
        image: (H, W) RGB image.
        window: window to compute.

    Returns:
        (height, width, 3) uint8 pixels.
    """
    if image.size == (window.scaled_width, window.scaled_height):
        image = image.crop((window.left, window.top, window.left + window.width, window.top + window.height))
        return np.asarray(image)
    rows, columns = image.height / window.scaled_height, image.width / window.scaled_width
    box = (
        window.left * columns,
        window.top * rows,
        min((window.left + window.width) * columns, image.width),
        min((window.top + window.height) * rows, image.height),
    )
    return np.asarray(image.resize((window.width, window.height), Image.Resampling.BILINEAR, box=box))


def resize_label_window(label: UInt8Array, window: Window) -> UInt8Array:
    """Compute a window of the scaled label map (nearest neighbor, pixel centers aligned) without scaling the rest.

    Args:
        label: (H, W) uint8 train ids.
        window: window to compute.

    Returns:
        (height, width) uint8 train ids.
    """
    rows = _nearest(label.shape[0], window.scaled_height)[window.top : window.top + window.height]
    columns = _nearest(label.shape[1], window.scaled_width)[window.left : window.left + window.width]
    return label.take(rows, axis=0).take(columns, axis=1)


def _nearest(source: int, target: int) -> npt.NDArray[np.intp]:
    # Integer arithmetic for floor((i + 1/2) * source / target), so that rounding does not shift a border.
    return (2 * np.arange(target, dtype=np.intp) + 1) * source // (2 * target)


def has_dominant_class(label: UInt8Array, max_share: float) -> bool:
    """Return whether one class has a share of `max_share` or more of the labeled pixels, or no pixel is labeled.

    This is the rule of detectron2's `RandomCrop_CategoryAreaConstraint` and of `cat_max_ratio` in mmsegmentation, which
    also ask for more than one class: a single class has a share of 1, so below 1 this follows.

    Args:
        label: (H, W) uint8 train ids, 255 = ignored.
        max_share: share of the labeled pixels, above 0 and below 1.
    """
    counts = count_values(label)[:IGNORE_LABEL]
    return bool(counts.max() >= max_share * counts.sum())


def pad(array: UInt8Array, size: tuple[int, int], value: int) -> UInt8Array:
    """Pad an array at the right and at the bottom.

    Args:
        array: (height, width, ...) array.
        size: smallest (height, width) of the result.
        value: value of the added elements.
    """
    missing = [max(0, size[axis] - array.shape[axis]) for axis in (0, 1)]
    if not any(missing):
        return array
    widths = [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, constant_values=value)


def color_jitter(image: UInt8Array, rng: np.random.Generator, strength: float = 1.0) -> UInt8Array:
    """Apply the photometric distortion of SSD (Liu et al., 2016).

    Brightness +-32; contrast x 0.5 to 1.5, before or after the next two; saturation x 0.5 to 1.5; hue +-18 of 180, that
    is 36 degrees. Each is applied with probability 1/2. All random numbers are always drawn.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: random generator.
        strength: factor on the ranges about "no change". At 2 and above an image may lose all its contrast or color.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    brighten, contrast_first, contrast, saturate, turn = rng.random(5) < 0.5
    offset = rng.uniform(-32 * strength, 32 * strength)
    factors = max(0.0, 1 - 0.5 * strength), 1 + 0.5 * strength
    gain, chroma = rng.uniform(*factors), rng.uniform(*factors)
    turns = round(18 * strength)
    angle = int(rng.integers(-turns, turns + 1))
    # Every step maps a byte to a byte, so each is a table of 256 entries instead of floating point on the image.
    levels = np.arange(256)
    if brighten:
        image = _apply_table(image, levels + offset)
    if contrast and contrast_first:
        image = _apply_table(image, levels * gain)
    if saturate or turn:
        hue = (levels + angle) % 180 if turn else levels
        saturation = levels * chroma if saturate else levels
        hsv = _apply_table(_convert(image, cv2.COLOR_RGB2HSV), np.stack([hue, saturation, levels], axis=-1)[None])
        image = _convert(hsv, cv2.COLOR_HSV2RGB)
    if contrast and not contrast_first:
        image = _apply_table(image, levels * gain)
    return image


def _apply_table(image: UInt8Array, table: npt.NDArray[Any]) -> UInt8Array:
    """Replace each byte v by `table[v]`, clipped to 0 to 255 and truncated."""
    return np.asarray(cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)), dtype=np.uint8)


def _convert(image: UInt8Array, code: int) -> UInt8Array:
    return np.asarray(cv2.cvtColor(image, code), dtype=np.uint8)


@dataclass(frozen=True)
class TrainAugmentation:
    """Scale, crop, pad, jitter and flip, in this order.

    Args:
        box: (height, width) into which the image is fitted before the random scale; None for no scaling.
        scale_range: lowest and highest factor on `box`.
        crop: (height, width) of the result, padded (image 0, label 255) where the scaled image is smaller; None for the
            whole image.
        jitter: strength of the color jitter, which follows the padding as published; 0 for none.
        flip: mirror with probability 1/2.
        max_class_share: share of the labeled pixels of a crop; if one class has as much, see `has_dominant_class`, the
            crop is drawn again. 1 for no limit.
    """

    box: tuple[int, int] | None = None
    scale_range: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] | None = None
    jitter: float = 0.0
    flip: bool = False
    max_class_share: float = 1.0

    def __call__(
        self, image: Image.Image, label: UInt8Array, rng: np.random.Generator, required: RequiredClass | None = None
    ) -> tuple[UInt8Array, UInt8Array]:
        """Draw a view of an image and its label map.

        A crop that does not show `required` or exceeds `max_class_share` is drawn again. The tenth is taken as it is.

        Args:
            image: (H, W) RGB image.
            label: (H, W) uint8 train ids.
            rng: random generator.
            required: class that the crop should show.

        Returns:
            (height, width, 3) uint8 RGB and (height, width) uint8 train ids of the view.
        """
        scaled = label.shape[0], label.shape[1]
        if self.box is not None:
            scaled = scaled_size(scaled, self.box, rng.uniform(*self.scale_range))
        window = draw_window(rng, scaled, self.crop)
        target = resize_label_window(label, window)
        for _ in range(_MAX_CROPS - 1):
            if self._accepts(target, required):
                break
            window = draw_window(rng, scaled, self.crop)
            target = resize_label_window(label, window)
        pixels = resize_window(image, window)
        if self.crop is not None:
            pixels, target = pad(pixels, self.crop, 0), pad(target, self.crop, IGNORE_LABEL)
        if self.jitter:
            pixels = color_jitter(pixels, rng, self.jitter)
        if self.flip and rng.random() < 0.5:
            pixels, target = np.fliplr(pixels), np.fliplr(target)
        return pixels, target

    def _accepts(self, target: UInt8Array, required: RequiredClass | None) -> bool:
        if required is not None and np.count_nonzero(target == required.label) < required.min_pixels:
            return False
        return self.max_class_share >= 1 or not has_dominant_class(target, self.max_class_share)

    def two_views(
        self, image: Image.Image, truth: UInt8Array | None, rng: np.random.Generator
    ) -> tuple[UInt8Array, UInt8Array, UInt8Array | None]:
        """Draw the two views of a generated image at its own size: flipped, and flipped with the color jitter.

        The teacher labels the first view pixel by pixel for the student, who sees the second one. So there is neither
        scale nor crop.

        Args:
            image: (H, W) RGB image.
            truth: (H, W) uint8 train ids, or None.
            rng: random generator of the flip, then of the jitter.

        Returns:
            (H, W, 3) and (H, W, 3) uint8 RGB, and the flipped `truth`.
        """
        clean = np.asarray(image)
        if self.flip and rng.random() < 0.5:
            clean, truth = np.fliplr(clean), None if truth is None else np.fliplr(truth)
        return clean, color_jitter(clean, rng, self.jitter) if self.jitter else clean, truth


def build_train_augmentation(cfg: CfgNode) -> TrainAugmentation:
    """Build the augmentation that the keys `RESIZE`, `CROP`, `COLOR_AUG_SSD` and `FLIP` of `INPUT` describe."""
    options = cfg.INPUT
    return TrainAugmentation(
        box=(options.INITIAL_HEIGHT, options.INITIAL_WIDTH) if options.RESIZE.ENABLED else None,
        scale_range=tuple(options.SCALE_RANGE),
        crop=tuple(options.CROP_SIZE) if options.CROP.ENABLED else None,
        jitter=options.COLOR_AUG_STRENGTH if options.COLOR_AUG_SSD else 0.0,
        flip=options.FLIP,
        max_class_share=options.CROP.SINGLE_CATEGORY_MAX_AREA if options.CROP.ENABLED else 1.0,
    )
