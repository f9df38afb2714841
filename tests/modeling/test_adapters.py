"""Adapters: they start without an effect, have the published sizes, and merge."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clouds.clouds import CLOUDS
from clouds.d2 import CfgNode, build_backbone, build_model
from clouds.engine.checkpointing.weights import frozen_keys
from clouds.errors import UserError
from clouds.modeling.backbone import Adapter, SegmentationBackbone
from clouds.modeling.backbone.adapters import ADAPTER_REGISTRY, build_adapter
from clouds.modeling.backbone.adapters.interchange import TENSORS, write_adapter
from clouds.modeling.backbone.adapters.lora import LoRALinear
from clouds.modeling.backbone.adapters.soma import smallest_singular_parts
from clouds.modeling.linear import OneDNNLinear, use_onednn
from tests.modeling.adapted_towers import adapted, change, largest_difference, maps, options
from tests.modeling.timm_folders import PLAIN, TOWERS, config
from tests.parity import golden

FULL_REIN = ("MODEL.MASK_FORMER.HIDDEN_DIM", 256, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 100)


@pytest.mark.parametrize(
    ("adapter", "tower", "opts", "trained"),
    [
        ("SoMA", "convnext_large.dinov3_lvd1689m", (), 4_331_520),
        ("LoRA", "vit_large_patch14_dinov2.lvd142m", (), 6_291_456),
        ("LoRA", "vit_base_patch16_dinov3.lvd1689m", (), 16 * 147_456),
        # Queries and values alone: in one layer with the keys, they have as many factors as in layers of their own.
        ("LoRA", "vit_large_patch14_dinov2.lvd142m", ("PATTERNS", (r"attn\.qkv",), "RANK", 8), 786_432),
        ("LoRA", "eva02_large_patch14_clip_336.merged2b", ("PATTERNS", (r"attn\.[qv]_proj",), "RANK", 8), 786_432),
        ("Rein", "vit_large_patch14_dinov2.lvd142m", ("LINK_QUERIES", False), 2_990_080 - 459_264),
    ],
)
def test_parameter_counts_are_the_published_ones(
    adapter: str, tower: str, opts: tuple[Any, ...], trained: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tests/engine/test_modern_configs.py` has those of the configs in configs/modern."""
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("decomposed a matrix without values"))
    own = [value if index % 2 else f"MODEL.ADAPTER.{value}" for index, value in enumerate(opts)]
    cfg = config(tower, "MODEL.DEVICE", "meta", "MODEL.ADAPTER.NAME", adapter, *FULL_REIN, *own)
    backbone = adapted(cfg)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == trained


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        *(("SoMA", kind) for kind in TOWERS),
        *(("LoRA", kind) for kind in ("convnext", "dinov2_reg")),  # SoMA's layers are derived from those of LoRA
        *(("Rein", kind) for kind in PLAIN),
    ],
)
def test_start_training_copy_and_merge(folders: dict[str, Path], kind: str, adapter: str) -> None:
    plain = build_backbone(config(folders[kind])).eval()
    backbone = adapted(config(folders[kind], *options(adapter)))
    own, trained = plain.state_dict(), {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert own.keys() <= backbone.state_dict().keys()
    assert trained.isdisjoint(own)
    frozen, start = maps(plain), maps(backbone)
    assert largest_difference(start, frozen) < 1e-6

    # Every parameter gets a gradient, those of the tower none, and the tower stays in evaluation mode.
    backbone.train()
    loss = sum(x.square().mean() for x in backbone(torch.randn(1, 3, 64, 64)).values())
    if backbone.queries is not None:
        loss = loss + backbone.queries.square().mean()
    loss.backward()
    assert {name for name, p in backbone.named_parameters() if p.grad is not None} == trained
    assert not backbone.tower.training

    change(backbone)
    changed = maps(backbone)
    assert largest_difference(changed, frozen) > 1e-3
    # A copy, such as the teacher's, is a network of its own.
    copied = copy.deepcopy(backbone)
    change(backbone, seed=1)
    assert largest_difference(maps(copied), changed) == 0
    change(copied, seed=1)
    assert largest_difference(maps(copied), maps(backbone)) < 1e-6

    if adapter == "Rein":
        with pytest.raises(ValueError, match=r"^Rein cannot be merged: what it adds depends on the image"):
            backbone.merge()
        return
    before = maps(backbone)
    shared = {name: value.clone() for name, value in copied.state_dict().items()}
    backbone.merge()
    assert largest_difference(maps(backbone), before) < 1e-5
    assert backbone.state_dict().keys() == own.keys()
    assert backbone.adapter is None
    assert not backbone.trainable
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(isinstance(module, LoRALinear) for module in backbone.modules())
    assert all(torch.equal(value, shared[name]) for name, value in copied.state_dict().items())


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_soma_starts_from_the_smallest_singular_values(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    b, a = smallest_singular_parts(weight, 2)
    torch.testing.assert_close((b @ a).double(), u[:, -2:] * s[-2:] @ v[-2:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(b.norm(dim=0).double(), s[-2:].flip(0).sqrt())
    torch.testing.assert_close(a.norm(dim=1).double(), s[-2:].flip(0).sqrt())
    assert all(torch.equal(x, y) for x, y in zip((b, a), smallest_singular_parts(weight, 2), strict=True))
    singular = torch.zeros(4, 5)
    assert all(x.isfinite().all() for x in smallest_singular_parts(singular, 2))


@pytest.fixture
def decompositions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the matrices that have been decomposed."""
    shapes, eigh = [], torch.linalg.eigh

    def counted(matrix: Tensor) -> Any:
        shapes.append(tuple(matrix.shape))
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    return shapes


def test_soma_decomposes_weights_for_a_training_that_loads_no_factors(
    folders: dict[str, Path], decompositions: list[tuple[int, ...]], tmp_path: Path
) -> None:
    def built(*opts: object) -> SegmentationBackbone:
        backbone = build_backbone(cfg := config(folders["dinov3"], *options("SoMA", *opts)))
        build_adapter(cfg, backbone)
        return backbone

    # Features need no factors, and those of a new adapter are those of the tower.
    plain, backbone = build_backbone(config(folders["dinov3"])), built()
    layers = len(backbone.adapter.layers)
    assert largest_difference(maps(backbone.eval()), maps(plain.eval())) == 0
    unstarted = copy.deepcopy(backbone)
    assert decompositions == []
    # The training does, once, as does that of a copy.
    backbone.train().eval().train()
    assert len(decompositions) == layers
    assert all(layer.initial_B.any() for layer in backbone.adapter.layers.values())
    unstarted.train()
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in unstarted.state_dict().items())
    # Without a call of train(), the first pass with a gradient does.
    free = built()
    sum(x.square().mean() for x in free(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(p.grad.any() for name, p in free.named_parameters() if name.endswith("lora_A"))
    assert len(decompositions) == 3 * layers

    # Loaded factors stay, whether they are those of a checkpoint or of a folder of the adapter.
    change(backbone)
    write_adapter(backbone, tmp_path / "adapter")
    loaded = built()
    loaded.load_state_dict(backbone.state_dict())
    for other in (loaded, built("MODEL.ADAPTER.WEIGHTS", str(tmp_path / "adapter")), copy.deepcopy(loaded)):
        assert largest_difference(maps(other.train().eval()), maps(backbone.eval())) < 1e-6
    assert len(decompositions) == 3 * layers

    # Weights of a tower that are loaded later are those that are decomposed.
    other = build_backbone(config(folders["dinov3"], "MODEL.BACKBONE.TIMM.WEIGHTS", ""))
    late = built()
    late.load_state_dict(other.state_dict(), strict=False)
    layer = next(iter(late.train().adapter.layers.values()))
    b, a = smallest_singular_parts(layer.weight.detach(), 4)
    assert torch.equal(layer.initial_B, b)
    assert torch.equal(layer.initial_A, a)


def test_rein_leaves_prefix_tokens_alone_and_computes_the_paper_s_equations(folders: dict[str, Path]) -> None:
    backbone = adapted(config(folders["dinov2_reg"], *options("Rein")))
    change(backbone)
    rein: Any = backbone.adapter
    x = torch.randn(2, 5 + 6, 32)
    with torch.no_grad():
        out = rein._behind(1, backbone.blocks[1], (), x)
        assert torch.equal(out[:, :5], x[:, :5])
        f, t = x[:, 5:], rein.tokens_A[1] @ rein.tokens_B[1]
        s = torch.softmax(f @ t.T / 32**0.5, dim=-1)
        delta = s[:, :, 1:] @ (t[1:] @ rein.token_projection.weight.T + rein.token_projection.bias)
        expected = f + (delta + f) @ rein.feature_projection.weight.T + rein.feature_projection.bias
        torch.testing.assert_close(out[:, 5:], expected)
        q = [rein.query_projection(a @ b) for a, b in zip(rein.tokens_A, rein.tokens_B, strict=True)]
        link = torch.cat([torch.stack(q).max(0).values, sum(q) / len(q), q[-1]], dim=1)
        torch.testing.assert_close(backbone.queries, rein.query_fusion(link))


def test_the_decoder_takes_the_linked_queries(folders: dict[str, Path]) -> None:
    def build(*opts: object) -> CLOUDS:
        return build_model(config(folders["dinov2"], *options("Rein", *opts)))

    model = build()
    assert not model.sem_seg_head.predictor.query_embed.weight.requires_grad
    sum(model.train()(golden.batch()).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        before = model.eval()(golden.batch())[0]["sem_seg"]
        model.sem_seg_head.predictor.query_embed.weight.add_(1)
        assert torch.equal(model(golden.batch())[0]["sem_seg"], before), "nothing reads it"
        model.backbone.adapter.query_fusion.bias.add_(1)
        assert not torch.equal(model(golden.batch())[0]["sem_seg"], before)
    free = build("MODEL.ADAPTER.LINK_QUERIES", False, "MODEL.ADAPTER.TOKENS", 7)
    assert free.backbone.queries is None
    assert free.sem_seg_head.predictor.query_embed.weight.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["SoMA", "Rein"])
def test_mixed_precision_and_compilation(folders: dict[str, Path], adapter: str) -> None:
    backbone = adapted(config(folders["dinov3"], *options(adapter)))
    change(backbone)
    exact = maps(backbone)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert largest_difference(maps(backbone), exact) < 3e-2
    backbone.compile(fullgraph=True, backend="eager")
    assert largest_difference(maps(backbone), exact) < 1e-5


def test_onednn_computes_adapted_layers(folders: dict[str, Path]) -> None:
    backbone = adapted(config(folders["convnext"], *options("SoMA")))
    change(backbone)
    before = maps(backbone)
    use_onednn(backbone)
    layer = next(iter(backbone.adapter.layers.values()))
    assert layer.uses_onednn
    assert largest_difference(maps(backbone), before) < 1e-6
    backbone.merge()
    assert type(layer) is OneDNNLinear
    assert largest_difference(maps(backbone), before) < 1e-5


@pytest.mark.parametrize(
    ("tower", "opts", "message"),
    [
        (
            "clip",
            ("NAME", "Lora"),
            r"^MODEL\.ADAPTER\.NAME names 'Lora', which does not exist; the nearest .*: LoRA",
        ),
        (
            "clip",
            ("PATTERNS", (r"attn\.qkv",)),
            r"^MODEL\.ADAPTER\.PATTERNS has 'attn\\\\.qkv', which matches no linear layer in a block; there are: "
            r"mlp\.fc1, mlp\.fc2 \(adapter LoRA, backbone CLIP\)\.$",
        ),
        (
            "clip",
            ("RANK", 40),
            r"^MODEL\.ADAPTER\.RANK is 40, but stages\.0\.blocks\.0\.mlp\.fc1 maps 16 to 64 channels",
        ),
        ("clip", ("SKIP_BLOCKS", 5), r"^MODEL\.ADAPTER\.SKIP_BLOCKS is 5, but the tower has 5 blocks"),
        (
            "clip",
            ("NAME", "Rein", "LINK_QUERIES", False),
            r"^MODEL\.ADAPTER\.NAME is Rein, which .* a ConvNeXt has none",
        ),
        (
            "resnet",
            (),
            r"^MODEL\.ADAPTER\.PATTERNS is empty, and a ModifiedResNet declares no layers that can be adapted",
        ),
        (
            "TrainableCLIP",
            (),
            r"^MODEL\.ADAPTER\.NAME is LoRA, but MODEL\.BACKBONE\.NAME TrainableCLIP trains its whole",
        ),
        (
            "dinov2",
            ("NAME", "Rein", "TOKENS", 11),
            r"^MODEL\.ADAPTER\.TOKENS is 11 and MODEL\.MASK_FORMER\.NUM_OBJECT_QUERIES \d+: they must be equal",
        ),
        ("dinov2", ("NAME", "Rein", "RANK", 40, "LINK_QUERIES", False), r"^MODEL\.ADAPTER\.RANK is 40, but 100 tokens"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    folders: dict[str, Path],
    tower: str,
    opts: tuple[Any, ...],
    message: str,
) -> None:
    own = [value if index % 2 else f"MODEL.ADAPTER.{value}" for index, value in enumerate(opts)]
    every = ("MODEL.ADAPTER.NAME", "LoRA", "MODEL.ADAPTER.RANK", 4, *own)
    case = "rn_closed" if tower == "resnet" else "convnext_closed"
    name = ("MODEL.BACKBONE.NAME", tower) if tower.startswith("Trainable") else ()
    cfg = config(folders[tower], *every) if tower in folders else golden.golden_config(case, *every, *name)
    with pytest.raises(UserError, match=message):
        build_model(cfg)


class Scale(Adapter):
    """Multiplies the outputs of all blocks by a trained number."""

    def __init__(self, cfg: CfgNode, backbone: SegmentationBackbone) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        for block in backbone.blocks:
            block.register_forward_hook(self._behind)

    def _behind(self, block: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * self.factor


if "Scale" not in ADAPTER_REGISTRY:
    ADAPTER_REGISTRY.register(Scale)


def test_an_adapter_of_one_s_own(tmp_path: Path) -> None:
    model = build_model(golden.golden_config("convnext_closed", "MODEL.ADAPTER.NAME", "Scale"))
    sum(model.train()(golden.batch()).values()).backward()
    assert model.backbone.adapter.factor.grad != 0
    assert [key for key in model.state_dict().keys() - frozen_keys(model) if key.startswith("backbone.")] == [
        "backbone.adapter.factor"
    ]
    with pytest.raises(ValueError, match=r"^Scale cannot be merged"):
        model.backbone.merge()
    with pytest.raises(ValueError, match=r"^Scale has no file of its own"):
        write_adapter(model.backbone, tmp_path / "folder")
    assert not (tmp_path / "folder" / TENSORS).exists()
