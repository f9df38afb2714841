"""Registries, builders, Backbone, ShapeSpec."""

import uuid

import pytest
import torch
from torch import nn

from clouds.d2 import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    Registry,
    ShapeSpec,
    build_backbone,
    build_model,
    build_sem_seg_head,
    get_cfg,
)


class TinyBackbone(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.stem = nn.Conv2d(input_shape.channels, 4, 1)

    def forward(self, x):
        return {"stem": self.stem(x)}

    def output_shape(self):
        return {"stem": ShapeSpec(channels=4, stride=1)}


class TinyHead(nn.Module):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.classify = nn.Conv2d(input_shape["stem"].channels, 2, 1)


class TinyModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.head = build_sem_seg_head(cfg, self.backbone.output_shape())


@pytest.fixture
def cfg():
    """Return a config whose three parts are registered under names unique to the test: registries keep every name."""
    cfg, tag = get_cfg(), uuid.uuid4().hex
    for registry, node, part in [
        (META_ARCH_REGISTRY, cfg.MODEL, TinyModel),
        (BACKBONE_REGISTRY, cfg.MODEL.BACKBONE, TinyBackbone),
        (SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD, TinyHead),
    ]:
        registry.register(type(f"{part.__name__}_{tag}", (part,), {}))
        node["META_ARCHITECTURE" if part is TinyModel else "NAME"] = f"{part.__name__}_{tag}"
    return cfg


def test_build_model(cfg):
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0]
    model = build_model(cfg)
    assert model.backbone.stem.weight.shape == (4, 2, 1, 1)
    assert model.head.classify.weight.shape == (2, 4, 1, 1)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_backbone_interface(cfg):
    cfg.MODEL.PIXEL_MEAN = [0.0] * 5
    backbone = build_backbone(cfg)
    assert backbone(torch.zeros(1, 5, 2, 2))["stem"].shape == (1, 4, 2, 2)
    with pytest.raises(TypeError, match="abstract"):
        Backbone()


def test_not_a_backbone(cfg):
    BACKBONE_REGISTRY.register(type(name := f"Linear_{uuid.uuid4().hex}", (nn.Identity,), {}))
    cfg.MODEL.BACKBONE.NAME = name
    with pytest.raises(AssertionError):
        build_backbone(cfg)


def test_registry():
    registry = Registry("PARTS")

    @registry.register()
    def part():
        return 1

    assert registry.get("part") is part
    assert "part" in registry
    with pytest.raises(AssertionError, match="part"):
        registry.register(part)
    with pytest.raises(KeyError, match="missing"):
        registry.get("missing")
