"""clouds analyze: parts, numbers that are known, and a step in stages that is the step of a training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clouds.commands import analyze as command
from clouds.config import load_config
from clouds.data.datasets.catalog import register_datasets
from clouds.engine.analysis.analyze import analyze
from clouds.engine.analysis.meter import memory_of
from clouds.engine.analysis.stages import random_batch, run_training, training_stages
from clouds.engine.parts import Parts
from tests.engine.test_end_to_end import write_config

ROOT = Path(__file__).resolve().parents[3]
GTA = ROOT / "configs/warmup/gta/train_gta.yaml"
DINO = ROOT / "configs/modern/warmup/gta/dinov2_l_rein.yaml"
HEAD = ["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", "MODEL.MASK_FORMER.DEC_LAYERS", "2", "MODEL.DEVICE", "cpu"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CLOUDS with a trained tower, whose data do not exist."""
    monkeypatch.syspath_prepend(tmp_path)
    return write_config(tmp_path / "tiny.yaml")


def test_the_tables(config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    assert command.main([str(config), "--batch", "2", "--size", "32x64", "--json", str(out)]) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    parts = {each["name"]: each for each in found["parts"]}
    measured = ["image tower", "pixel decoder", "transformer decoder", "criterion", "optimizer step", "whole step"]
    for name in measured:
        assert parts[name]["seconds"]["forward"] > 0 and name in printed
    assert all(parts[name]["seconds"]["backward"] > 0 for name in measured[:4])
    assert parts["label map"]["seconds"]["inference"] > 0
    assert parts["whole step"]["peak"]["forward"] >= max(parts[name]["peak"]["forward"] for name in measured[:4])
    assert found["machine"]["device"].startswith("cpu") and found["machine"]["threads"] == torch.get_num_threads()
    assert found["training_images"] == 2 and found["training_size"] == [32, 64]
    assert "FLOPs: a multiplication and an addition are two" in printed
    assert "Weights are random" in printed

    cfg = load_config(config)
    model = Parts.build_model(cfg)
    assert found["network"]["weights"]["parameters"] == sum(each.numel() for each in model.parameters())
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert found["network"]["weights"]["trained"] == trained > 0


def test_stages_are_a_training_step(config: Path) -> None:
    """Losses and gradients of the stages are those of the network's own forward and backward pass."""
    cfg = load_config(config, ["SEED", "1"])
    register_datasets(modules=cfg.DATASETS.MODULES)
    model = Parts.build_model(cfg).train()
    batch = random_batch(2, (32, 64), 3)
    sum(model(batch).values()).backward()
    wanted = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    found = run_training(training_stages(model, batch), lambda call: (None, call()))
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert list(found.forward) == [*reversed(found.backward)]
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_published_sizes() -> None:
    """ConvNeXt-L of CLIP and the head of Mask2Former, on a device without memory."""
    analysis = analyze(load_config(GTA), size=(512, 512), batch=1, measures=False)
    parts = {each.name: each for each in analysis.parts}
    tower = parts["image tower"]
    # timm's table has 34.4 G multiply-adds for 224 x 224 pixels, with a head of 1000 classes.
    assert tower.weights is not None and 196e6 < tower.weights.parameters < 202e6 and tower.weights.trained == 0
    assert tower.flops["forward"] == pytest.approx(2 * 34.4e9 * (512 / 224) ** 2, rel=0.02)
    assert "backward" not in tower.flops  # it is frozen
    head = sum(each.weights.trained for each in parts.values() if each.weights is not None and "decoder" in each.name)
    assert 19e6 < head < 22e6
    assert analysis.machine == {}


def test_a_large_transformer_with_an_adapter() -> None:
    analysis = analyze(load_config(DINO, HEAD), size=(512, 512), batch=1, measures=False)
    parts = {each.name: each for each in analysis.parts}
    tower, adapter = parts["image tower"].weights, parts["adapter"].weights
    assert tower is not None and adapter is not None
    assert 300e6 < tower.parameters < 306e6 and tower.trained == 0
    assert 2e6 < adapter.trained < 4e6  # Rein has 2.99 M
    # 24 blocks: 12 C^2 products of a token, and two of each pair of tokens. After each block, Rein compares all tokens
    # with 100 of its own, weighs these, and maps both.
    tokens, width, own = 32 * 32 + 1, 1024, 100
    block = 2 * 12 * width**2 * tokens + 4 * tokens**2 * width
    rein = 4 * tokens * own * width + 2 * (tokens + own) * width**2
    assert parts["image tower"].flops["forward"] == pytest.approx(24 * (block + rein), rel=0.005)
    assert parts["image tower"].flops["backward"] > 0  # to the adapter


def test_memory_of_a_call() -> None:
    def call() -> torch.Tensor:
        temporary = torch.ones(1000, 1000)
        return temporary.sum(dim=0)

    memory, result = memory_of(call, torch.device("cpu"))
    assert result.shape == (1000,)
    assert 4e6 <= memory.peak < 4.2e6
    assert 4000 <= memory.kept < 1e5


def test_mistakes(sentence: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "no.yaml" in sentence(command.main, "no.yaml")
    with pytest.raises(SystemExit) as end:
        command.main([str(GTA), "--size", "512"])
    assert end.value.code == 2
    assert "must be HEIGHTxWIDTH in pixels, such as 512x1024, not '512'" in capsys.readouterr().err
