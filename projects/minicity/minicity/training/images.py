"""Images as tensors, and their augmentation.

Letters: B images, H x W pixels.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clouds.utils.open_clip import open_clip


def to_unit_range(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Convert images (B, H, W, 3) uint8 to (B, 3, H, W) float in 0..1."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def normalize_for_clip(images: Tensor) -> Tensor:
    """Normalize images (B, 3, H, W) in 0..1 with the channel means and deviations of CLIP."""
    statistics = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in statistics)
    return (images - mean) / std


def clip_input(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Convert images (B, H, W, 3) uint8 to the input of CLIP's image tower, (B, 3, H, W) float."""
    return normalize_for_clip(to_unit_range(images, device))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary the saturation, contrast and brightness of each image.

    Args:
        images: (B, 3, H, W) float in 0..1.
        generator: random generator on the CPU.

    Returns:
        (B, 3, H, W) float, clipped to 0..1.
    """

    def factors(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)).to(images.device)

    grey = images.mean(dim=1, keepdim=True)
    images = grey + factors(0.5, 1.4) * (images - grey)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + factors(0.7, 1.3) * (images - middle)
    return (images * factors(0.8, 1.2)).clamp(0, 1)
