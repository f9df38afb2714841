"""The contract of a backbone: CLIP satisfies it, and a plain convolutional pyramid without text can replace CLIP."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from clouds.clouds import CLOUDS
from clouds.d2 import BACKBONE_REGISTRY, Backbone, CfgNode, ShapeSpec, build_model, configurable
from clouds.engine.checkpointing.weights import frozen_keys
from clouds.errors import UserError
from clouds.modeling.backbone import CLIP, Adapter, SegmentationBackbone, TextTower, clip
from clouds.modeling.backbone.open_clip_models import is_published, model_config
from tests.parity import golden

TEXT_HEAD = ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder")
LEVELS = ("res2", "res3", "res4", "res5")


class ToyPyramid(SegmentationBackbone):
    """Strided convolutions, trained from scratch; no text."""

    @configurable
    def __init__(self, *, width: int, trainable: bool = True) -> None:
        super().__init__(
            pixel_mean=(100.0, 110.0, 120.0), pixel_std=(50.0, 60.0, 70.0), trainable=trainable, reloadable=False
        )
        self.width = width
        self.stages = nn.ModuleList(
            nn.Conv2d(inputs, width, stride, stride) for inputs, stride in ((3, 4), (width, 2), (width, 2), (width, 2))
        ).requires_grad_(trainable)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        assert input_shape.channels == 3
        return {"width": 8}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = {}
        for name, stage in zip(LEVELS, self.stages, strict=True):
            maps[name] = images = stage(images)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.width, stride=2**level) for level, name in enumerate(LEVELS, start=2)}

    @property
    def size_divisibility(self) -> int:
        return 32


class Foreign(Backbone):
    """A backbone in detectron2's sense that does not satisfy the contract."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return ToyPyramid(width=1).output_shape()


for backbone in (ToyPyramid, Foreign):
    if backbone.__name__ not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(backbone)


def toy(*opts: Any) -> CLOUDS:
    return build_model(golden.golden_config("convnext_closed", "MODEL.BACKBONE.NAME", "ToyPyramid", *opts))


def test_a_backbone_without_text_trains_and_predicts():
    model = toy().train()
    losses = model(golden.batch())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert any(p.requires_grad for p in model.backbone.parameters())
    with torch.no_grad():
        [result, _] = model.eval()(golden.batch())
    assert result["sem_seg"].shape == (19, 96, 128)
    assert not [key for key in model.state_dict() if key.startswith("void_embedding")]
    assert model.void is None


def test_the_backbone_brings_its_normalization_and_the_config_may_replace_it():
    assert toy().pixel_mean.flatten().tolist() == [100.0, 110.0, 120.0]
    assert toy().pixel_std.flatten().tolist() == [50.0, 60.0, 70.0]
    assert toy("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]).pixel_mean.flatten().tolist() == [1.0, 2.0, 3.0]
    ours = golden.build("convnext_closed")
    published = {"pixel_mean": [122.7709383, 116.7460125, 104.09373615]}
    published["pixel_std"] = [68.5005327, 66.6321579, 70.32316305]
    for name, values in published.items():
        assert torch.equal(getattr(ours, name).flatten(), torch.tensor(values)), "to the last bit"


def test_batches_are_padded_for_the_backbone_and_for_the_config():
    assert toy("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 0).size_divisibility == 32
    model = toy("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 24)
    assert model.size_divisibility == 96
    assert model.canvas([{"image": torch.zeros(3, 97, 20)}]) == (192, 96)


def test_a_frozen_backbone_stays_in_evaluation_mode():
    assert not ToyPyramid(width=4, trainable=False).train().training
    assert ToyPyramid(width=4).train().training


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            TEXT_HEAD,
            r"TRANSFORMER_DECODER_NAME needs a text tower, which the backbone ToyPyramid does not have",
        ),
        (("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE", True), r"^MODEL\.CLOUDS\.GEOMETRIC_ENSEMBLE needs a text tower"),
        (("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_EMA", True), r"^MODEL\.CLOUDS\.GEOMETRIC_ENSEMBLE_EMA needs a text tower"),
    ],
)
def test_what_needs_text_says_so(opts, message):
    with pytest.raises(UserError, match=message):
        toy(*opts)


def test_a_backbone_of_another_kind_is_refused():
    with pytest.raises(UserError, match=r"MODEL\.BACKBONE\.NAME is Foreign, which is no SegmentationBackbone"):
        build_model(golden.golden_config("convnext_closed", "MODEL.BACKBONE.NAME", "Foreign"))


def test_clip_has_a_text_tower():
    tower = golden.build("convnext_text").backbone.text_tower
    assert isinstance(tower, TextTower)
    assert tower.embed_dim == 64
    assert tower.dense_feature in golden.build("convnext_text").backbone.output_shape()


@pytest.mark.parametrize(
    ("name", "pretrained", "reloadable"),
    [
        ("RN50", "", False),
        ("RN50", "openai", True),
        ("RN50", "file.pt", True),
        ("folder", "", True),
        ("hf-hub:someone/clip", "", True),
    ],
)
def test_which_clip_weights_have_a_source(tmp_path, monkeypatch, name, pretrained, reloadable):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    model = golden.build("convnext_closed").backbone.clip_model
    monkeypatch.setattr(clip, "load_open_clip", lambda *_: model)
    settings = ("MODEL.CLOUDS.CLIP_MODEL_NAME", name, "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", pretrained)
    assert CLIP(golden.golden_config("convnext_closed", *settings)).reloadable is reloadable


@pytest.mark.parametrize(
    ("name", "pretrained", "published"),
    [
        ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", True),
        ("RN50", "openai", True),
        ("hf-hub:owner/model", "", True),
        ("RN50", "weights/rn50.pt", False),
        ("RN50", "", False),
        ("weights/clip.json", "weights/clip.safetensors", False),
        ("weights/clip", "", False),
    ],
)
def test_towers_that_anybody_can_load(name: str, pretrained: str, published: bool) -> None:
    assert is_published(name, pretrained) is published


def test_the_architecture_of_a_tower_has_its_activation() -> None:
    # Without QuickGELU, the weights of OpenAI would compute something else.
    assert model_config("RN50", "openai")["quick_gelu"] is True
    assert "quick_gelu" not in model_config("RN50")
    assert model_config("RN50")["embed_dim"] == 1024


@pytest.mark.parametrize("name", ["convnext_closed", "rn_closed"])
def test_the_blocks_of_clip_are_those_that_the_maps_pass(name: str) -> None:
    backbone = golden.build(name).backbone
    passed = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda module, *_: passed.append(module))
    backbone(torch.zeros(1, 3, 64, 64))
    assert passed == backbone.blocks
    layers = [[n for n, _ in block.named_modules() if re.fullmatch(r"mlp\.fc[12]", n)] for block in backbone.blocks]
    assert backbone.adapter_patterns == ((r"mlp\.(fc[12]|fc1_[gx])",) if backbone.is_convnext else ())
    assert all(layers) is backbone.is_convnext
    assert backbone.tokens is None


@pytest.mark.parametrize("name", ["convnext_closed", "rn_closed"])
def test_an_adapted_clip_gives_gradients_and_stays_in_evaluation_mode(name: str) -> None:
    class Shift(Adapter):
        """Adds a trained number to the output of a block."""

        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))
            block.register_forward_hook(lambda _, inputs, output: output + self.shift)

    model = golden.build(name).eval()
    backbone = model.backbone
    images = torch.rand(1, 3, 64, 64)
    before, frozen = backbone(images), frozen_keys(model)
    backbone.adapt(Shift(backbone.blocks[-1]))
    model.train()
    assert backbone.trainable
    assert backbone.adapter.training
    assert not backbone.tower.training
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone(images)["res5"].requires_grad, "the copy of the frozen stages is not used"
    after = backbone(images)
    assert not after["res4"].requires_grad
    assert all(torch.equal(after[name], maps) for name, maps in before.items())
    assert [key for key, each in model.named_parameters() if each.requires_grad and key.startswith("backbone.")] == [
        "backbone.adapter.shift"
    ]
    assert frozen_keys(model) == frozen
    assert model.state_dict().keys() - frozen >= {"backbone.adapter.shift"}
    assert backbone.queries is None
    with pytest.raises(ValueError, match=r"adapted already"):
        backbone.adapt(backbone.adapter)
