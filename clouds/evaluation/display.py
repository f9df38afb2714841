"""Small copies of an image, its label map and its prediction, which are kept during an evaluation to be shown later."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

LONGEST = 512
"""Longest edge of the copies in pixels."""


class Display(NamedTuple):
    """Copies of one size (h, w), at most `LONGEST`.

    Attributes:
        image: (3, h, w) uint8 RGB.
        prediction: (h, w) uint8 train ids.
        truth: (h, w) uint8 train ids with 255 for ignored pixels; None without ground truth.
    """

    image: Tensor
    prediction: Tensor
    truth: Tensor | None

    @classmethod
    def of(cls, image: Tensor, prediction: Tensor, truth: Tensor | None) -> "Display":
        """Shrink an image and its label maps on their devices, which the host does not wait for.

        Args:
            image: (3, H, W) uint8 RGB.
            prediction: (H', W') uint8 train ids.
            truth: (H', W') uint8 train ids; None without ground truth.
        """
        step = -(-max(prediction.shape) // LONGEST)
        small = prediction[::step, ::step].clone()  # a view would keep the whole label map
        resized = interpolate(image[None].float(), size=small.shape, mode="area")[0]
        shown = None if truth is None else truth[::step, ::step].clone()
        return cls(resized.round().to(torch.uint8), small, shown)

    def to_host(self) -> "Display":
        """Return the copies on the CPU."""
        return Display(self.image.cpu(), self.prediction.cpu(), None if self.truth is None else self.truth.cpu())
