"""Distillation of an image tower from a trained CLIP.

The tower learns the feature maps of the CLIP beside its own task. Most towers of DINOv3 were also distilled from a
larger one, with another loss (Simeoni et al., 2025).

Letters: B images, C channels, h x w feature map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StudentMaps(nn.Module):
    """Predicts the feature maps of a teacher from those of a tower, level by level, for training only.

    A linear projection of each map is compared with the map of the teacher, at the coarser of the two sizes.
    """

    def __init__(self, channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        """
        Args:
            channels: C of each feature map of the tower.
            teacher_channels: C of each feature map of the teacher.
        """
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Conv2d(own, teachers, 1) for own, teachers in zip(channels, teacher_channels, strict=True)
        )

    def forward(self, maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the distance of the predictions from the maps of the teacher.

        Args:
            maps: feature maps of the tower, each (B, C, h, w).
            teacher_maps: feature maps of the teacher for the same images.

        Returns:
            Scalar, one minus the mean correlation of the channels: 0 where all maps agree, 1 where they are unrelated.
        """
        distances = []
        for each, target, project in zip(maps, teacher_maps, self.projections, strict=True):
            size = min(each.shape[-2], target.shape[-2]), min(each.shape[-1], target.shape[-1])
            projected = project(F.adaptive_avg_pool2d(each, size))
            target = F.adaptive_avg_pool2d(target, size)
            projected, target = (x - x.mean(dim=1, keepdim=True) for x in (projected, target))
            distances.append(1 - F.cosine_similarity(projected, target, dim=1).mean())
        return torch.stack(distances).mean()


@torch.no_grad()
def copy_text_tower(source: Any, target: Any) -> None:
    """Copy the text tower and the temperature of an open_clip model to another one.

    Raises:
        ValueError: the text towers, or the spaces that images and texts share, have different sizes.
    """
    stored = _text_tower(source)
    for name, value in _text_tower(target).items():
        if name not in stored or stored[name].shape != value.shape:
            raise ValueError(f"{name} has another size")
        value.copy_(stored[name])


def _text_tower(model: Any) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith("visual.")}
