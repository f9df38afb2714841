"""The square that SAM sees: transforms of images and points into it, and of masks out of it. Letters as in `base`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.utils.transfer import upload

# Mean and standard deviation of ImageNet's RGB in 0..255, which SAM, MobileSAM and SAM 2 were trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# Pixels of float masks that are resized at once: 16 MB. On a CPU, larger blocks are mapped anew for each use.
_PIXELS = 2**22


@dataclass(frozen=True)
class Frame:
    """A square that images are resized into.

    Attributes:
        side: S, side in pixels.
        keep_aspect: whether an image keeps its aspect ratio: its longest side becomes S, and the rest of the square is
            filled with zeros (SAM). Otherwise both sides become S (SAM 2).
        mean: mean of R, G and B that images are normalized with, in 0..255.
        std: standard deviation of R, G and B, in 0..255.
    """

    side: int
    keep_aspect: bool = True
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of the part of the square, from its upper left corner, that an image (H, W) fills."""
        if not self.keep_aspect:
            return self.side, self.side
        scale = self.side / max(size)
        height, width = (max(1, int(length * scale + 0.5)) for length in size)
        return height, width

    def to_frame(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Convert points (..., 2) x, y from pixels of an image (H, W) to pixels of the square."""
        height, width = self.fit(size)
        return points * upload(torch.tensor((width / size[1], height / size[0]), dtype=points.dtype), points.device)

    def stack(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        """Resize and normalize images (3, H, W) uint8 RGB of any sizes to (B, 3, S, S) float32.

        Images are resized as bytes on the CPU. The result agrees with Pillow, which SAM's authors use, up to rare
        differences of 1 in 255; in float32, every fourth value would differ.
        """
        mean, std = upload(torch.tensor((self.mean, self.std)), device)[..., None, None]
        batch = torch.zeros(len(images), 3, self.side, self.side, device=device)
        for square, image in zip(batch, images, strict=True):
            height, width = self.fit((image.shape[1], image.shape[2]))
            resized = F.interpolate(image[None].cpu(), (height, width), mode="bilinear", antialias=True)[0]
            square[:, :height, :width] = (upload(resized, device) - mean) / std
        return batch

    def to_masks(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Convert logits (P, l, l) of the square to masks (P, H, W) bool of the image, in bounded memory."""
        height, width = self.fit(size)
        masks = torch.empty(len(logits), *size, dtype=torch.bool, device=logits.device)
        step = max(1, _PIXELS // max(self.side**2, size[0] * size[1]))
        for start in range(0, len(logits), step):
            maps = logits[None, start : start + step]
            if self.keep_aspect:  # resized to the square first, as in SAM's own post-processing
                maps = F.interpolate(maps, (self.side, self.side), mode="bilinear")[..., :height, :width]
            if maps.shape[2:] != size:
                maps = F.interpolate(maps, size, mode="bilinear")
            masks[start : start + step] = maps[0] > 0
        return masks
