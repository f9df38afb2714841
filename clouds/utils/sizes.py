"""Sizes of images, (height, width) in pixels."""

import math

Size = tuple[int, int]
"""(height, width) in pixels."""


def scaled_size(size: Size, factor: float) -> Size:
    """Return a size times a factor, at least one pixel a side."""
    # Halves are rounded up, as in detectron2 and mmcv; round() would send 1024.5 and 1025.5 different ways.
    height, width = (max(1, int(length * factor + 0.5)) for length in size)
    return height, width


def network_input_size(size: Size, short_edge: int, max_pixels: int) -> Size:
    """Return the size (h, w) to which an image of `size` (H, W) is resized: `short_edge_size`, then `limited_size`."""
    return limited_size(short_edge_size(size, short_edge), max_pixels)


def short_edge_size(size: Size, short_edge: int) -> Size:
    """Return the size (h, w) of an image of `size` (H, W) whose shorter edge is resized to `short_edge` pixels.

    The aspect ratio is kept; with 0 the size is kept, too.
    """
    return size if short_edge == 0 else scaled_size(size, short_edge / min(size))


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


def square_window(window: int, stride: int) -> tuple[Size | None, Size | None]:
    """Return the sizes of a square sliding window and its stride, in pixels; None where a number is 0.

    Without a window there is no stride.
    """
    sides = (window, stride if window else 0)
    of_window, of_stride = ((side, side) if side else None for side in sides)
    return of_window, of_stride
