"""The adapter of a trained network: alone, in peft's layout, and merged into a network that is saved."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import clouds
from clouds.commands import predict
from clouds.commands.adapter import main
from clouds.config import load_config
from clouds.d2 import build_backbone
from clouds.modeling.backbone.adapters import build_adapter
from tests.modeling.timm_folders import write_tower

SaveRun = Callable[..., Path]


def features(backbone: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        maps = backbone.eval()(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    return torch.cat([maps[name].flatten() for name in ("res2", "res3", "res4", "res5")])


@pytest.fixture
def trained(save_run: SaveRun, tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a run with a changed adapter on a tower that has a file."""

    def write(tower: str, adapter: str) -> Path:
        options: list[object] = ["MODEL.ADAPTER.NAME", adapter, "MODEL.ADAPTER.RANK", 4]
        if tower == "clip":
            options += ["MODEL.BACKBONE.NAME", "CLIP"]
        else:
            folder = write_tower(tmp_path / tower, tower)
            options += ["MODEL.BACKBONE.NAME", "TimmTower", "MODEL.BACKBONE.TIMM.MODEL_NAME", folder]
        run = save_run(*options, "MODEL.ADAPTER.LINK_QUERIES", False)
        file = run / "model_final.pth"
        content = torch.load(file, weights_only=True)
        for key, value in content["model"].items():
            if key.endswith(("lora_A", "lora_B", "initial_A", "initial_B")) or key.startswith("backbone.adapter."):
                value.add_(0.1 * torch.randn_like(value))
        torch.save(content, file)
        return run

    return write


@pytest.mark.parametrize(
    ("tower", "adapter"), [("clip", "SoMA"), ("convnext", "LoRA"), ("dinov2", "SoMA"), ("dinov3", "Rein")]
)
def test_an_adapter_alone_and_merged(
    trained: Callable[..., Path],
    tmp_path: Path,
    images: list[Path],
    tower: str,
    adapter: str,
    sentence: Callable[..., str],
) -> None:
    run = trained(tower, adapter)
    model = clouds.load(run, device="cpu")
    network = model.network
    assert main([str(run), str(tmp_path / "adapter")]) == 0
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    if tower != "clip":  # whose weights are in the checkpoint
        cfg = load_config(run / "config.yaml", ["MODEL.ADAPTER.WEIGHTS", str(tmp_path / "adapter")])
        backbone = build_backbone(cfg)
        build_adapter(cfg, backbone)
        torch.testing.assert_close(features(backbone), features(network.backbone), rtol=1e-5, atol=1e-6)

    merged, words = tmp_path / "merged", (str(run), str(tmp_path / "merged"), "--merge")
    if adapter == "Rein":
        error = sentence(main, *words)
        assert error.startswith(
            "The adapter cannot be merged: Rein cannot be merged: what it adds depends on the image"
        )
        assert not merged.exists()
        return
    before = features(network.backbone)
    assert main([*words]) == 0
    # The folder needs neither the tower's own files nor an adapter.
    shutil.rmtree(tmp_path / tower, ignore_errors=True)
    shutil.move(merged, tmp_path / "moved")
    again = clouds.load(tmp_path / "moved", device="cpu")
    assert again.cfg.MODEL.ADAPTER.NAME == ""
    assert not [key for key in again.network.state_dict() if "lora" in key or "initial" in key]
    torch.testing.assert_close(features(again.network.backbone), before, rtol=1e-5, atol=1e-5)
    theirs = model.predict(images)
    for ours, other in zip(again.predict(images), theirs, strict=True):
        assert (ours.labels == other.labels).mean() > 0.999, "rounding may change a pixel between two classes"
    # An image of the command, and a folder of the folder.
    output = tmp_path / "predictions"
    assert predict.main(["--model", str(tmp_path / "moved"), str(images[0]), "--output", str(output)]) == 0
    labels = np.asarray(Image.open(output / f"{images[0].stem}_labels.png"))
    assert (labels == again.predict(images[0]).labels).all()
    again.save_pretrained(tmp_path / "twice")
    twice = clouds.load(tmp_path / "twice", device="cpu")
    assert torch.equal(features(twice.network.backbone), features(again.network.backbone))
    # The network that was merged has not changed.
    model.merge()
    assert torch.equal(features(network.backbone), before)


def test_what_cannot_be_written(save_run: SaveRun, tmp_path: Path, sentence: Callable[..., str]) -> None:
    run = save_run()
    assert sentence(main, str(run), str(tmp_path / "a")).startswith("The network has no adapter: give one that was")
    assert sentence(main, str(run), str(tmp_path / "a"), "--merge").startswith("The network has no adapter: give one")
    assert not (tmp_path / "a").exists()
