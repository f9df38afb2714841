"""Helpers for tests of adapters, which build adapted towers, change adapters and compare feature maps."""

import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode, build_backbone
from clouds.modeling.backbone import SegmentationBackbone
from clouds.modeling.backbone.adapters import build_adapter

ANY_SIZE = {"dynamic_img_size": True}


def adapted(cfg: CfgNode) -> SegmentationBackbone:
    backbone = build_backbone(cfg)
    assert isinstance(backbone, SegmentationBackbone)
    build_adapter(cfg, backbone)
    return backbone.train().eval()


def options(name: str, *opts: object, rank: int = 4) -> tuple[object, ...]:
    queries = ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 10, "MODEL.ADAPTER.TOKENS", 10)
    return ("MODEL.ADAPTER.NAME", name, "MODEL.ADAPTER.RANK", rank, *queries, *opts)


def change(backbone: SegmentationBackbone, seed: int = 0) -> None:
    """Give an adapter other values, as a training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def maps(backbone: nn.Module, size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        found: dict[str, Tensor] = backbone(images)
    return found


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest relative difference between two sets of feature maps."""
    return max(((one[name] - x).norm() / x.norm()).item() for name, x in other.items())
