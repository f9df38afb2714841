"""Random views of a street scene: scale, crop, colour jitter, flip. Pure functions of their arguments and a Generator.

Legend: H, W of the picture in its file; h, w of the whole picture once scaled; the crop is what leaves.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds.d2 import CfgNode
from clouds.data.classes import IGNORE_LABEL

_TRIES = 10
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Window:
    """A rectangle of a scaled picture, all in pixels of that scaled picture."""

    scaled_height: int
    scaled_width: int
    top: int
    left: int
    height: int
    width: int


def scaled_size(size: tuple[int, int], box: tuple[int, int], scale: float) -> tuple[int, int]:
    """(h, w) of the largest picture with the aspect ratio of `size` = (H, W) that fits `scale * box`."""
    height, width = size
    factor = min(box[0] * scale / height, box[1] * scale / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def draw_window(rng: np.random.Generator, scaled: tuple[int, int], crop: tuple[int, int] | None) -> Window:
    """A random place for a crop of (height, width) in a picture of size `scaled` = (h, w).

    Where the picture is smaller than the crop the window is the picture. Row and column are drawn independently (one
    number for both would see only the diagonal), and always both, so that what is drawn next does not depend on sizes.
    """
    height, width = scaled if crop is None else (min(scaled[0], crop[0]), min(scaled[1], crop[1]))
    top = round(rng.random() * (scaled[0] - height))
    left = round(rng.random() * (scaled[1] - width))
    return Window(*scaled, top, left, height, width)


def resize_window(image: Image.Image, window: Window) -> UInt8Array:
    """The window of the bilinearly (antialiased) scaled RGB picture, computed alone: (height, width, 3) uint8.

    Pillow's filter reads across the edge of `box`, so this is resize-then-crop up to the rounding of the box.
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
    """The window of the label map (H, W) scaled by nearest neighbour, centres aligned: (height, width) uint8."""
    rows = _nearest(label.shape[0], window.scaled_height)[window.top : window.top + window.height]
    columns = _nearest(label.shape[1], window.scaled_width)[window.left : window.left + window.width]
    return label.take(rows, axis=0).take(columns, axis=1)


def _nearest(source: int, target: int) -> npt.NDArray[np.intp]:
    # Integer arithmetic for floor((i + 1/2) * source / target): no rounding decides a border.
    return (2 * np.arange(target, dtype=np.intp) + 1) * source // (2 * target)


def pad(array: UInt8Array, size: tuple[int, int], value: int) -> UInt8Array:
    """`array` (H, W, ...) extended to the right and below to at least `size` with `value`."""
    missing = [max(0, size[axis] - array.shape[axis]) for axis in (0, 1)]
    if not any(missing):
        return array
    widths = [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, constant_values=value)


def color_jitter(image: UInt8Array, rng: np.random.Generator, strength: float = 1.0) -> UInt8Array:
    """The photometric distortion of SSD (Liu et al., 2016) on RGB (H, W, 3) uint8.

    Brightness +-32; contrast x 0.5-1.5, before or after the next two; saturation x 0.5-1.5; hue +-18 of 180, that is
    36 degrees. Each happens with probability 1/2, and all numbers are drawn whatever happens. `strength` scales these
    ranges about "no change": at 2 and above a picture may lose its contrast or all its colour.
    """
    brighten, contrast_first, contrast, saturate, turn = rng.random(5) < 0.5
    offset = rng.uniform(-32 * strength, 32 * strength)
    factors = max(0.0, 1 - 0.5 * strength), 1 + 0.5 * strength
    gain, chroma = rng.uniform(*factors), rng.uniform(*factors)
    turns = round(18 * strength)
    angle = int(rng.integers(-turns, turns + 1))
    # Every step maps a byte to a byte, so each is a table of 256 entries instead of floating point on the picture.
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
    """The picture with each byte v replaced by `table[v]`, clipped to 0..255 and truncated."""
    return np.asarray(cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)), dtype=np.uint8)


def _convert(image: UInt8Array, code: int) -> UInt8Array:
    return np.asarray(cv2.cvtColor(image, code), dtype=np.uint8)


class RequiredClass(NamedTuple):
    """What a crop should show: so many pixels of a class."""

    label: int
    pixels: float


@dataclass(frozen=True)
class TrainAugmentation:
    """Scale, crop, pad, jitter, flip, in this order; a step that is off is left out.

    Args:
        box: (height, width) that the picture is fitted into before the random scale; None = no scaling.
        scale_range: lowest and highest factor on `box`.
        crop: (height, width) of what comes out, padded (image 0, label 255) where the scaled picture is smaller;
            None = all of it.
        jitter: strength of the SSD colour jitter (after the padding, as published); 0 = none.
        flip: mirror with probability 1/2.
    """

    box: tuple[int, int] | None = None
    scale_range: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] | None = None
    jitter: float = 0.0
    flip: bool = False

    def __call__(
        self, image: Image.Image, label: UInt8Array, rng: np.random.Generator, wanted: RequiredClass | None = None
    ) -> tuple[UInt8Array, UInt8Array]:
        """RGB picture and (H, W) uint8 labels of the same size -> (h, w, 3) and (h, w) uint8.

        Where something is `wanted` the place of the crop is drawn again until it is there, ten times at the most.
        """
        scaled = label.shape[0], label.shape[1]
        if self.box is not None:
            scaled = scaled_size(scaled, self.box, rng.uniform(*self.scale_range))
        window = draw_window(rng, scaled, self.crop)
        target = resize_label_window(label, window)
        for _ in range(_TRIES - 1):
            if wanted is None or np.count_nonzero(target == wanted.label) >= wanted.pixels:
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

    def two_views(
        self, image: Image.Image, truth: UInt8Array | None, rng: np.random.Generator
    ) -> tuple[UInt8Array, UInt8Array, UInt8Array | None]:
        """A generated picture at its own size: flipped, the same with the jitter, and the label map flipped alike.

        What labels it must see what the student sees, pixel for pixel, hence neither scale nor crop.

        Args:
            image: (H, W) RGB picture.
            truth: (H, W) uint8 labels, or None.
            rng: source of the flip, then of the jitter.

        Returns:
            (H, W, 3), (H, W, 3) and (H, W) uint8 (or None).
        """
        clean = np.asarray(image)
        if self.flip and rng.random() < 0.5:
            clean, truth = np.fliplr(clean), None if truth is None else np.fliplr(truth)
        return clean, color_jitter(clean, rng, self.jitter) if self.jitter else clean, truth


def build_train_augmentation(cfg: CfgNode) -> TrainAugmentation:
    """What `cfg.INPUT` describes: `RESIZE`, `CROP`, `COLOR_AUG_SSD` with its strength, and `FLIP`."""
    options = cfg.INPUT
    return TrainAugmentation(
        box=(options.INITIAL_HEIGHT, options.INITIAL_WIDTH) if options.RESIZE.ENABLED else None,
        scale_range=tuple(options.SCALE_RANGE),
        crop=tuple(options.CROP_SIZE) if options.CROP.ENABLED else None,
        jitter=options.COLOR_AUG_STRENGTH if options.COLOR_AUG_SSD else 0.0,
        flip=options.FLIP,
    )
