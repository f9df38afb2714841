"""LoRA and SoMA in the pointwise convolutions of timm's smallest ConvNeXts."""

import pytest
import timm
import torch
from torch import Tensor, nn

from clouds.modeling.backbone.adapters import LoRA, SoMA
from clouds.modeling.backbone.timm_towers import TimmTower
from clouds.modeling.initialization import open_residual_branches
from clouds.modeling.linear import maps_channels, use_onednn

IMAGES = torch.rand(2, 3, 64, 96)


def tower() -> TimmTower:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=0)
    open_residual_branches(model)
    return TimmTower(tower=model).eval()


def adapted(kind: str) -> TimmTower:
    backbone = tower()
    adapter = LoRA(backbone=backbone, rank=4, alpha=8.0) if kind == "LoRA" else SoMA(backbone=backbone, rank=4)
    backbone.adapt(adapter)
    return backbone


def maps(backbone: TimmTower) -> Tensor:
    return torch.cat([each.flatten() for each in backbone(IMAGES).values()])


@pytest.mark.parametrize("kind", ["LoRA", "SoMA"])
def test_it_starts_without_effect_learns_and_merges(kind: str) -> None:
    original, before = tower().state_dict(), maps(tower())
    backbone = adapted(kind)
    use_onednn(backbone)  # as the trainer does
    assert torch.equal(maps(backbone), before)
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in original.items())
    trained = {name: each for name, each in backbone.named_parameters() if each.requires_grad}
    assert sum(each.numel() for each in trained.values()) == 2 * 4 * 5 * (8 + 16 + 2 * 24 + 32)

    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    for _ in range(2):  # the gradient of LoRA's A is 0 in the first step
        optimizer.zero_grad()
        maps(backbone).square().mean().backward()
        assert all(each.grad is not None for each in trained.values())
        optimizer.step()
    after = maps(backbone).detach()
    assert (after - before).abs().max() > 1e-3

    assert "rank=4" in repr(backbone)
    assert isinstance(backbone.adapter, LoRA)
    backbone.adapter.merge()
    assert backbone.state_dict().keys() == original.keys()
    assert sum(maps_channels(each) for each in backbone.modules()) == 2 * 5
    torch.testing.assert_close(maps(backbone), after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 4, 1, padding=1)],
)
def test_other_convolutions_are_not_linear_in_the_channels(layer: nn.Conv2d) -> None:
    assert not maps_channels(layer)
    assert maps_channels(nn.Conv2d(4, 8, 1))
