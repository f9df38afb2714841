"""Random views of scenes, and features of the boxes in them.

Letters: B images, M boxes, C channels of a feature map, D width of the space that images and texts share.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from minicity.clip.pool import STORED_SIZE
from minicity.world.pool import SCENE, Pixels

VIEW = (128, 256)
"""Size (H, W) of a view in pixels."""


class RegionReader(nn.Module):
    """Embeds boxes of an image: the mean of each feature map inside the box, projected to the shared space.

    Used in training only (as in RegionCLIP, Zhong et al., 2022), so that every level of the tower learns names.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        """
        Args:
            channels: C of each feature map.
            dim: D.
        """
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in channels)
        self.projection = nn.Linear(sum(channels), dim)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """
        Args:
            maps: feature maps, each (B, C, h, w), of images of `VIEW` pixels.
            boxes: (M, 5) index of the image, then left, top, right and bottom in its pixels.

        Returns:
            (M, D) unit-norm.
        """
        pooled = [
            norm(roi_align(each, boxes, 1, each.shape[-1] / VIEW[1], sampling_ratio=4, aligned=True).flatten(1))
            for norm, each in zip(self.norms, maps, strict=True)
        ]
        return F.normalize(self.projection(torch.cat(pooled, dim=1)), dim=1)


def random_view(
    images: Pixels, owners: npt.NDArray[np.int64], boxes: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[Pixels, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Cut one random window, or the whole image, from all images of a batch, and move the boxes along.

    The view is mirrored in half of the cases.

    Args:
        images: (B, H, W, 3) uint8, of `STORED_SIZE` pixels.
        owners: (M,) index of the image of each box.
        boxes: (M, 4) left, top, right and bottom in pixels of `SCENE`.
        rng: chooses the view.

    Returns:
        Images (B, h, w, 3) uint8 of `VIEW` pixels; boxes (M, 5) for `RegionReader`; (M,) bool, whether the center of a
        box lies in the view.
    """
    if rng.random() < 0.5:
        top, left, height, width = 0, 0, *STORED_SIZE
    else:
        height, width = VIEW
        top, left = (int(rng.integers(stored - size + 1)) for stored, size in zip(STORED_SIZE, VIEW, strict=True))
    images = images[:, top : top + height, left : left + width]
    if (height, width) != VIEW:
        images = np.stack([cv2.resize(image, VIEW[::-1], interpolation=cv2.INTER_AREA) for image in images])
    zoom = VIEW[0] / height
    x0, y0, x1, y1 = ((boxes * (STORED_SIZE[0] / SCENE[0]) - [left, top, left, top]) * zoom).T
    if rng.random() < 0.5:
        images = images[:, :, ::-1]
        x0, x1 = VIEW[1] - x1, VIEW[1] - x0
    inside = (np.abs(x0 + x1 - VIEW[1]) < VIEW[1]) & (np.abs(y0 + y1 - VIEW[0]) < VIEW[0])
    return np.ascontiguousarray(images), np.stack([owners, x0, y0, x1, y1], axis=1).astype(np.float32), inside
