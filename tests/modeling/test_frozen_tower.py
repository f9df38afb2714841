"""The frozen towers: weights cast once under bfloat16, no text tower on the device, only the maps that are read."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clouds.clouds import CLOUDS
from clouds.modeling.backbone import CLIP
from clouds.modeling.backbone.towers import fold_batch_norms
from tests.parity import golden

TOWERS = ["convnext_closed", "rn_closed"]


class CountCasts(TorchDispatchMode):
    """Counts the conversions of float32 tensors to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.casts = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_cast = isinstance(result, Tensor) and result.dtype == torch.bfloat16 and isinstance(args[0], Tensor)
        self.casts += is_cast and args[0].dtype == torch.float32
        return result


@pytest.fixture(params=TOWERS)
def model(request: pytest.FixtureRequest) -> CLOUDS:
    return golden.build(request.param).eval()


def images(model: CLOUDS) -> Tensor:
    return golden.tensor("backbone_convnext" if model.backbone.is_convnext else "backbone_rn", "images_norm")


def bfloat16_maps(model: CLOUDS) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return model.backbone(images(model))


def test_bfloat16_features_are_close_and_their_weights_are_cast_once(model: CLOUDS) -> None:
    exact = model.backbone(images(model))
    half = bfloat16_maps(model)
    assert half.keys() == exact.keys()
    for name, maps in half.items():
        assert maps.dtype == torch.bfloat16
        assert ((maps.float() - exact[name]).norm() / exact[name].norm()).item() < 1.5e-2  # measured: 6e-3
    with CountCasts() as count:
        again = bfloat16_maps(model)
    assert count.casts == 1, "the output of the first layer, which is float32"
    assert all(torch.equal(again[name], maps) for name, maps in half.items())


def test_float16_and_full_precision_use_the_original_weights(model: CLOUDS) -> None:
    before = model.backbone(images(model))
    bfloat16_maps(model)
    with torch.autocast("cpu", torch.float16):
        assert model.backbone(images(model))["res2"].dtype in (torch.float16, torch.float32)
    after = model.backbone(images(model))
    assert all(torch.equal(after[name], maps) for name, maps in before.items())


def test_the_copy_is_no_part_of_the_model(model: CLOUDS) -> None:
    state, parameters = {key: value.clone() for key, value in model.state_dict().items()}, list(model.parameters())
    bfloat16_maps(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]


def test_other_weights_are_cast_anew(model: CLOUDS) -> None:
    first = bfloat16_maps(model)["res5"]
    state = model.state_dict()
    model.load_state_dict({key: value * 1.1 if value.is_floating_point() else value for key, value in state.items()})
    assert not torch.equal(bfloat16_maps(model)["res5"], first)
    model.load_state_dict(golden.state("convnext_closed" if model.backbone.is_convnext else "rn_closed"))
    torch.testing.assert_close(bfloat16_maps(model)["res5"], first, rtol=0, atol=0)
    model.double()
    assert model.backbone._copied_stages is None


def test_a_copy_made_in_inference_mode_serves_training(model: CLOUDS) -> None:
    with torch.inference_mode():
        bfloat16_maps(model)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(golden.batch())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_trained_tower_keeps_its_weights() -> None:
    model = golden.build("rn_closed", "MODEL.BACKBONE.NAME", "TrainableCLIP").train()
    maps = bfloat16_maps(model)
    assert maps["res5"].requires_grad
    assert model.backbone._copied_stages is None


def test_folded_batch_norms_change_nothing_but_rounding() -> None:
    class Branches(nn.Module):
        """A block as in a ModifiedResNet, whose last norm follows an activation and stays."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()
            self.downsample = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
            self.act2, self.bn2 = nn.ReLU(), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn2(self.act2(self.downsample(self.act1(self.bn1(self.conv1(x))))))

    block = Branches().train()
    x = torch.randn(4, 3, 9, 9)
    block(3 * x + 1)  # moves the statistics
    with torch.no_grad():
        expected = block.eval()(x)
        fold_batch_norms(block)
        torch.testing.assert_close(block(x), expected)
    assert [name for name, module in block.named_modules() if isinstance(module, nn.BatchNorm2d)] == ["bn2"]


def test_only_the_maps_that_are_read_are_returned(model: CLOUDS) -> None:
    assert set(model.backbone(images(model))) == {"res2", "res3", "res4", "res5", "clip_vis_dense"}
    maps = CLIP(clip_model=model.backbone.clip_model, model_name="", out_features=("stem", "res4"))(images(model))
    assert set(maps) == {"stem", "res4"}
    config = golden.golden_config("rn_closed", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["stem", "res3", "res4", "res5"])
    assert CLIP.from_config(config)["out_features"] == {"stem", "res3", "res4", "res5", "clip_vis_dense"}


def test_the_text_tower_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = golden.build("convnext_text")
    clip = model.backbone
    moved: list[tuple[str, str]] = []
    for name in ("transformer", "token_embedding"):
        part = getattr(clip.clip_model, name)
        monkeypatch.setattr(part, "to", lambda device, name=name: moved.append((name, str(device))))
    clip.float()
    assert moved == [("transformer", "cpu"), ("token_embedding", "cpu")], "back from where the model has gone"
    moved.clear()
    first = model.text_classifier(("road", "sky"))
    assert [device for _, device in moved] == ["cpu"] * 4, "to the device of the model, and back"
    moved.clear()
    assert torch.equal(model.text_classifier(("road", "sky")).embeddings, first.embeddings)
    assert not moved, "the embeddings are kept"


def test_the_text_tower_takes_part_in_conversions() -> None:
    clip = golden.build("convnext_text").backbone.double()
    assert {p.dtype for p in clip.parameters()} == {torch.float64}
