"""Image towers of timm as backbones: their maps, any image size, patches, and what is trained."""

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn
from torch.nn import functional as F

from clouds.clouds import CLOUDS
from clouds.d2 import build_backbone, build_model
from clouds.errors import UserError
from clouds.modeling.backbone import CLIP, SegmentationBackbone, TimmTower, TokenLayout
from clouds.modeling.backbone.timm_models import load_timm
from clouds.modeling.compilation import compile_forward
from tests.marks import slow
from tests.modeling.timm_folders import PLAIN, TOWERS, config
from tests.parity import golden

LEVELS = ("res2", "res3", "res4", "res5")


def tower(folder: Path, **options: Any) -> TimmTower:
    return TimmTower(tower=load_timm(str(folder)), **{"patch_size": 16, **options})


# Parameters of a tower without head and final norm, and its channels.
FULL_SIZE = {
    "convnext_tiny.dinov3_lvd1689m": (27_818_592, (96, 192, 384, 768)),
    "convnext_large.dinov3_lvd1689m": (196_227_264, (192, 384, 768, 1536)),
    "convnextv2_tiny.fcmae_ft_in22k_in1k": (27_864_960, (96, 192, 384, 768)),
    "swin_tiny_patch4_window7_224.ms_in1k": (27_517_818, (96, 192, 384, 768)),
    "vit_small_patch14_dinov2.lvd142m": (22_055_424, (384,) * 4),
    "vit_large_patch14_dinov2.lvd142m": (304_365_568, (1024,) * 4),
    "vit_large_patch14_reg4_dinov2.lvd142m": (304_368_640, (1024,) * 4),
    "vit_base_patch16_dinov3.lvd1689m": (85_639_680, (768,) * 4),
    "vit_large_patch16_dinov3.lvd1689m": (303_077_376, (1024,) * 4),
    "eva02_large_patch14_clip_336.merged2b": (303_643_584, (1024,) * 4),
    "vit_so400m_patch16_siglip_512.v2_webli": (413_532_144, (1152,) * 4),
}


LARGE = [name for name, (parameters, _) in FULL_SIZE.items() if parameters > 1e8]


@pytest.mark.parametrize("name", [*(name for name in FULL_SIZE if name not in LARGE), *slow(*LARGE)])
def test_every_tower_is_built_at_full_size(name: str) -> None:
    backbone = build_backbone(config(name, "MODEL.DEVICE", "meta"))
    parameters, channels = FULL_SIZE[name]
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert {p.device.type for p in backbone.parameters()} == {"meta"}
    maps = backbone(torch.zeros(1, 3, 64, 96, device="meta"))
    pyramid = [*zip(LEVELS, channels, (4, 8, 16, 32), strict=True)]
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        name: (1, width, 64 // stride, 96 // stride) for name, width, stride in pyramid
    }
    assert {name: (shape.channels, shape.stride) for name, shape in backbone.output_shape().items()} == {
        name: (width, stride) for name, width, stride in pyramid
    }
    assert backbone.size_divisibility == 32
    assert backbone.adapter_patterns
    assert len(backbone.blocks) in (12, 14, 18, 24, 27, 36)


@pytest.mark.parametrize("kind", TOWERS)
def test_the_contract_holds_for_a_frozen_tower(folders: dict[str, Path], kind: str) -> None:
    backbone = build_backbone(config(folders[kind]))
    assert isinstance(backbone, SegmentationBackbone)
    assert backbone.text_tower is None
    assert backbone.reloadable
    assert not backbone.train().training
    assert not any(p.requires_grad for p in backbone.parameters())
    for height, width in ((64, 96), (160, 32)):
        maps = backbone(torch.rand(2, 3, height, width))
        for name, shape in backbone.output_shape().items():
            expected = (2, shape.channels, height // shape.stride, width // shape.stride)
            assert tuple(maps[name].shape) == expected
            assert not maps[name].requires_grad
            assert maps[name].isfinite().all()
    assert {*build_backbone(config(folders[kind], "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res3", "res4", "res5"]))(
        torch.rand(1, 3, 64, 64)
    )} == {"res3", "res4", "res5"}  # fmt: skip


@pytest.mark.parametrize("kind", TOWERS)
def test_every_trained_parameter_gets_a_gradient(folders: dict[str, Path], kind: str) -> None:
    for names in (LEVELS, ("res2", "res3", "res4")):
        backbone = tower(folders[kind], trainable=True, out_features=names)
        assert backbone.train().training
        maps = backbone(torch.rand(1, 3, 64, 64))
        sum(x.square().mean() for x in maps.values()).backward()
        unused = [name for name, p in backbone.named_parameters() if p.grad is None]
        assert unused == [], "data-parallel training would wait for them"
        assert any(p.grad.abs().amax() > 0 for p in backbone.parameters())


@pytest.mark.parametrize("kind", TOWERS)
def test_an_adapter_reaches_the_output_through_every_layer(folders: dict[str, Path], kind: str) -> None:
    backbone = tower(folders[kind])
    images = torch.rand(1, 3, 64, 64)
    before = backbone(images)
    layers = [
        (name, part)
        for block in backbone.blocks
        for name, part in block.named_modules()
        if any(re.fullmatch(pattern, name) for pattern in backbone.adapter_patterns)
    ]
    linear = [part for block in backbone.blocks for part in block.modules() if isinstance(part, nn.Linear)]
    assert [part for _, part in layers] == linear, "all linear layers of the blocks"
    called: list[nn.Module] = []
    for _, layer in layers:
        layer.register_forward_hook(lambda module, *_: called.append(module))
    after = backbone(images)
    assert set(called) == set(linear)
    assert all(torch.equal(after[name], x) for name, x in before.items())


@pytest.mark.parametrize(("kind", "prefix"), zip(PLAIN, (1, 5, 5, 1, 0), strict=True))
def test_the_tokens_of_a_transformer(folders: dict[str, Path], kind: str, prefix: int) -> None:
    backbone = tower(folders[kind])
    assert backbone.tokens == TokenLayout(width=32, prefix=prefix)
    shapes = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape)))
    backbone(torch.rand(2, 3, 64, 96))
    assert shapes == [(2, prefix + 4 * 6, 32)] * 4
    assert tower(folders["convnext"]).tokens is None


@pytest.mark.parametrize("kind", PLAIN)
def test_the_maps_of_a_transformer_are_resized_blocks(folders: dict[str, Path], kind: str) -> None:
    backbone = tower(folders[kind], patch_size=0)
    side = 16 if kind in ("dinov3", "siglip") else 14
    assert backbone.size_divisibility == math.lcm(32, side)
    images = torch.rand(1, 3, 224, 448)
    with torch.no_grad():
        plain = load_timm(str(folders[kind])).eval().forward_intermediates(images, intermediates_only=True)
        maps = backbone(images)
    for (name, x), block, stride in zip(maps.items(), (1, 2, 3, 4), (4, 8, 16, 32), strict=True):
        # Blocks 1/3, 1/2, 2/3 and 1 of 4, without the final norm.
        expected = plain[{1: 0, 2: 1, 3: 2, 4: 3}[block]]
        size = (224 // stride, 448 // stride)
        expected = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(x, expected, msg=name)


def test_the_blocks_of_the_published_adapters() -> None:
    levels = build_backbone(config("vit_large_patch14_dinov2", "MODEL.DEVICE", "meta"))._levels
    assert levels == {"res2": 7, "res3": 11, "res4": 15, "res5": 23}, "8, 12, 16 and 24, counted from 1"


def test_the_maps_of_a_pyramid_are_those_of_timm(folders: dict[str, Path]) -> None:
    images = torch.rand(1, 3, 64, 96)
    backbone = tower(folders["convnext"])
    architecture, arguments = TOWERS["convnext"]
    features = timm.create_model(architecture, features_only=True, **arguments).eval()
    state = {
        key.replace("stages.", "stages_").replace("stem.", "stem_"): x for key, x in backbone.tower.state_dict().items()
    }
    features.load_state_dict(state)
    with torch.no_grad():
        for ours, theirs in zip(backbone(images).values(), features(images), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_reg", "eva02"])
def test_patches_and_positions_are_resampled_from_the_stored_ones(folders: dict[str, Path], kind: str) -> None:
    backbone, stored = tower(folders[kind]), load_timm(str(folders[kind])).eval()
    assert backbone.size_divisibility == 32
    own = backbone.tower.state_dict()
    assert own["patch_embed.proj.weight"].shape[-2:] == (14, 14)
    assert all(torch.equal(x, stored.state_dict()[key]) for key, x in own.items()), "checkpoints hold what was stored"

    kernel = resample_patch_embed(stored.patch_embed.proj.weight, [16, 16])
    torch.testing.assert_close(backbone.tower.patch_embed.proj.kernel(), kernel)
    images, prefix = torch.rand(1, 3, 96, 160), 0 if kind == "dinov2_reg" else 1
    positions = resample_abs_pos_embed(stored.pos_embed, [6, 10], old_size=[5, 5], num_prefix_tokens=prefix)
    # timm's own model for this image size and this patch size, with the resampled weights.
    architecture, arguments = TOWERS[kind]
    plain: Any = timm.create_model(architecture, **{**arguments, "img_size": (96, 160), "patch_size": 16}).eval()
    plain.load_state_dict({**stored.state_dict(), "patch_embed.proj.weight": kernel, "pos_embed": positions})
    with torch.no_grad():
        expected = plain.forward_intermediates(images, intermediates_only=True)[2]
        torch.testing.assert_close(backbone(images)["res4"], expected, rtol=1e-4, atol=1e-5)


def test_resampled_patches_are_exact_under_autocast_and_get_a_gradient(folders: dict[str, Path]) -> None:
    backbone = tower(folders["dinov2"], trainable=True)
    patches = backbone.tower.patch_embed.proj
    exact = patches.kernel()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(patches.kernel(), exact)
    backbone(torch.rand(1, 3, 32, 32))["res5"].sum().backward()
    assert patches.weight.grad.abs().amax() > 0
    assert "matrix" not in str([*backbone.state_dict()])


@pytest.mark.parametrize("kind", ["convnext", "dinov2", "dinov3", "swin"])
@pytest.mark.parametrize("adapted", [False, True])
def test_checkpointing_saves_memory_and_keeps_the_gradients(folders: dict[str, Path], kind: str, adapted: bool) -> None:
    def measure(checkpointing: bool) -> tuple[int, dict[str, Tensor]]:
        backbone = tower(folders[kind], trainable=not adapted, checkpointing=checkpointing)
        return bytes_saved(adapted_at_bias(backbone) if adapted else backbone)

    (much, expected), (little, gradients) = measure(False), measure(True)
    assert little < 0.6 * much
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def bytes_saved(backbone: SegmentationBackbone) -> tuple[int, dict[str, Tensor]]:
    """Return the bytes that a forward pass in training keeps for the backward pass, parameters aside, and gradients."""
    torch.manual_seed(0)
    images, parameters, sizes = torch.rand(2, 3, 64, 64), {p.data_ptr() for p in backbone.parameters()}, {}
    backbone.train()

    def count(x: Tensor) -> Tensor:
        if x.data_ptr() not in parameters:
            sizes[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        maps = backbone(images)
        total = sum(sizes.values())
    sum((x.float().square().mean() for x in maps.values()), torch.zeros(())).backward()
    return total, {name: p.grad for name, p in backbone.named_parameters() if p.requires_grad}


def adapted_at_bias(backbone: SegmentationBackbone) -> SegmentationBackbone:
    """Train the bias of the first layer that an adapter would change."""
    [pattern, *_] = backbone.adapter_patterns
    layer = next(part for name, part in backbone.blocks[0].named_modules() if re.fullmatch(pattern, name))
    adapter = nn.Module()
    backbone.adapt(adapter)
    layer.weight.requires_grad_(True)
    return backbone


def test_checkpointing_is_off_where_nothing_is_trained(folders: dict[str, Path]) -> None:
    backbone = tower(folders["dinov2"], checkpointing=True)
    assert not backbone.train().tower.grad_checkpointing
    trained = tower(folders["dinov2"], checkpointing=True, trainable=True)
    assert trained.train().tower.grad_checkpointing
    assert not trained.eval().tower.grad_checkpointing, "so that it can be exported"


def test_checkpointing_of_clip() -> None:
    clip = golden.build("convnext_closed").backbone

    def measure(checkpointing: bool) -> tuple[int, dict[str, Tensor]]:
        return bytes_saved(
            CLIP(clip_model=copy.deepcopy(clip.clip_model), model_name="", trainable=True, checkpointing=checkpointing)
        )

    (much, expected), (little, gradients) = measure(False), measure(True)
    assert little < 0.6 * much
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    with pytest.raises(UserError, match=r"CHECKPOINTING is True, but CLIP model .* has a ModifiedResNet"):
        build_backbone(golden.golden_config("rn_closed", "MODEL.BACKBONE.CHECKPOINTING", True))


def test_the_tower_brings_its_normalization(folders: dict[str, Path]) -> None:
    assert tower(folders["siglip"]).pixel_mean == (127.5,) * 3
    model = build_model(config(folders["dinov2"]))
    torch.testing.assert_close(model.pixel_mean.flatten(), 255 * torch.tensor([0.485, 0.456, 0.406]))
    assert build_model(config(folders["dinov2"], "MODEL.PIXEL_STD", [1.0, 2.0, 3.0])).pixel_std.flatten().tolist() == [
        1.0,
        2.0,
        3.0,
    ]


@pytest.mark.parametrize("kind", ["convnext", "eva02"])
@pytest.mark.parametrize("backbone", ["TimmTower", "TrainableTimmTower"])
def test_a_network_trains_and_predicts(folders: dict[str, Path], kind: str, backbone: str) -> None:
    model: CLOUDS = build_model(config(folders[kind], backbone=backbone)).train()
    sum(model(golden.batch()).values()).backward()
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(model.get_parameter(name).grad is not None for name in trained)
    assert any(name.startswith("backbone.") for name in trained) is (backbone == "TrainableTimmTower")
    assert not [key for key in model.state_dict() if key.startswith("void_embedding")]
    with torch.no_grad():
        [result, _] = model.eval()(golden.batch())
    assert result["sem_seg"].shape == (19, 96, 128)


@pytest.mark.parametrize("key", ["MODEL.CLOUDS.GEOMETRIC_ENSEMBLE", "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_EMA"])
def test_a_tower_without_text(folders: dict[str, Path], key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key} needs a text tower, which the backbone TimmTower does not have"):
        build_model(config(folders["convnext"], key, True))
    head = ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder")
    with pytest.raises(UserError, match=r"TRANSFORMER_DECODER_NAME needs a text tower.*MODEL\.BACKBONE\.NAME CLIP"):
        build_model(config(folders["convnext"], *head))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_large_patch14_dinov4",
            r"MODEL_NAME names 'vit_large_patch14_dinov4', .* nearest.*vit_large_patch14_dinov2",
        ),
        ("convnext_large.dinov3", r"MODEL_NAME names 'convnext_large\.dinov3', .* nearest.*dinov3_lvd1689m"),
        (
            "beit_base_patch16_224",
            r"beit_base_patch16_224, which cannot be a backbone \(tower takes images of one size",
        ),
        ("xcit_nano_12_p8_224", r"MODEL_NAME is xcit_nano_12_p8_224, which cannot be a backbone \(tower "),
        ("mixer_s16_224", r"MODEL_NAME is mixer_s16_224, which cannot be a backbone \(tower "),
        ("vit_tiny_r_s16_p8_224", r"MODEL_NAME is vit_tiny_r_s16_p8_224, which cannot be a backbone \(tower "),
        ("hiera_tiny_224", r"which cannot be a backbone \(tower fails for images of another size: AttributeError"),
        (
            "convnext_large_d_320",
            r"MODEL_NAME is convnext_large_d_320, a model of open_clip: set MODEL\.CLOUDS\.CLIP_MODEL",
        ),
    ],
)
def test_what_cannot_be_a_tower(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(config(name, "MODEL.DEVICE", "meta"))


def test_a_name_of_timm_in_the_key_of_clip() -> None:
    with pytest.raises(
        UserError, match=r"CLIP_MODEL_NAME is vit_large_patch14_dinov2, a model of timm: set MODEL\.BACKBONE"
    ):
        build_backbone(
            golden.golden_config("convnext_closed", "MODEL.CLOUDS.CLIP_MODEL_NAME", "vit_large_patch14_dinov2")
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2_reg"])
def test_a_compiled_tower_has_the_same_maps_at_all_sizes(folders: dict[str, Path], kind: str) -> None:
    torch.compiler.reset()
    names = ("res2", "res3")  # maps of the first two blocks; the others are removed
    plain = tower(folders[kind], trainable=True, out_features=names).train()
    compiled = tower(folders[kind], trainable=True, out_features=names, checkpointing=True).train()
    compile_forward(compiled, backend="eager")
    for batch, height, width in ((2, 64, 96), (3, 96, 160)):
        images = torch.rand(batch, 3, height, width)
        torch.testing.assert_close(compiled(images), plain(images))
    assert [*compiled.state_dict()] == [*plain.state_dict()]
