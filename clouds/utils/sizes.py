"""Sizes of images, (height, width) in pixels."""

import math

Size = tuple[int, int]
"""(height, width) in pixels."""


def scaled_size(size: Size, factor: float) -> Size:
    """Return a size times a factor, at least one pixel a side."""
    # Halves are rounded up, as in mmcv.
    height, width = (max(1, int(length * factor + 0.5)) for length in size)
    return height, width


def short_edge_size(size: Size, short_edge: int) -> Size:
    """Return the size (h, w) of an image of `size` (H, W) whose shorter edge is resized to `short_edge` pixels.

    The aspect ratio is kept; with 0 the size is kept, too.
    """
    if short_edge == 0:
        return size
    factor = short_edge / min(size)
    # Halves are rounded up, as in detectron2; round() would send 1024.5 and 1025.5 different ways.
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def limited_size(size: Size, max_pixels: int) -> Size:
    """Return the largest size with the aspect ratio of `size` (h, w) that has at most `max_pixels` pixels; 0: no limit.

    The shorter side has at least one pixel, and the longer one at most 1/32 of `max_pixels`, because networks pad their
    input to multiples of 32.
    """
    if max_pixels == 0 or size[0] * size[1] <= max_pixels:
        return size
    factor, longest = math.sqrt(max_pixels / (size[0] * size[1])), max(1, max_pixels // 32)
    height, width = (min(max(1, int(factor * side)), longest) for side in size)
    return height, width
