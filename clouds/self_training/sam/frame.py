"""The square that SAM sees: images into it, points into it, masks out of it. Letters as in `interface`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Of ImageNet, for values of 0..255; all SAMs were trained with them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

_PIXELS = 2**24  # of float masks at a time: 64 MB


@dataclass(frozen=True)
class Frame:
    """A square that images are resized into.

    Attributes:
        side: S, pixels.
        keep_aspect: the longest side of an image becomes S, and the rest of the square is filled with zeros (SAM);
            or both sides become S (SAM 2).
    """

    side: int
    keep_aspect: bool = True

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """The part of the square, (height, width) from its upper left corner, that an image of (H, W) fills."""
        if not self.keep_aspect:
            return self.side, self.side
        scale = self.side / max(size)
        height, width = (max(1, int(length * scale + 0.5)) for length in size)
        return height, width

    def to_frame(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Points (..., 2) x, y in pixels of an image of (H, W) -> the same in pixels of the square."""
        height, width = self.fit(size)
        return points * points.new_tensor((width / size[1], height / size[0]))

    def stack(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        """Images (3, H, W) uint8 RGB, whatever their sizes -> (B, 3, S, S) float32, normalised.

        Resized as bytes on the CPU: that agrees with Pillow, which SAM's authors resize with, but for rare single steps
        of 255. In float32 every fourth value would be another one.
        """
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
        batch = torch.zeros(len(images), 3, self.side, self.side, device=device)
        for square, image in zip(batch, images, strict=True):
            height, width = self.fit((image.shape[1], image.shape[2]))
            resized = F.interpolate(image[None].cpu(), (height, width), mode="bilinear", antialias=True)[0]
            square[:, :height, :width] = (resized.to(device) - mean) / std
        return batch

    def to_masks(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (P, l, l) of the square -> masks (P, H, W) bool of the image, a bounded number of them at a time."""
        height, width = self.fit(size)
        masks = torch.empty(len(logits), *size, dtype=torch.bool, device=logits.device)
        step = max(1, _PIXELS // max(self.side**2, size[0] * size[1]))
        for start in range(0, len(logits), step):
            maps = logits[None, start : start + step]
            if self.keep_aspect:  # by way of the square itself, as SAM's own post-processing does
                maps = F.interpolate(maps, (self.side, self.side), mode="bilinear")[..., :height, :width]
            if maps.shape[2:] != size:
                maps = F.interpolate(maps, size, mode="bilinear")
            masks[start : start + step] = maps[0] > 0
        return masks
