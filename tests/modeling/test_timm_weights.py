"""Weights of timm's towers: folder, file, cache of the hub, random, and what is refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clouds.d2 import build_backbone
from clouds.errors import UserError
from clouds.modeling.backbone.timm_models import architecture, is_published, load_timm
from clouds.modeling.initialization import open_residual_branches
from tests.modeling.timm_folders import config, write_tower


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tower(tmp_path / "tower", "convnext")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(model: Any, state: dict[str, Tensor]) -> None:
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[key]) for key, x in model.state_dict().items())


def test_from_a_folder_and_from_a_file(folder: Path, tmp_path: Path) -> None:
    state = weights(folder)
    assert_equal(load_timm(str(folder)), state)
    assert_equal(load_timm(f"local-dir:{folder}"), state)
    other = {key: x + 1 for key, x in state.items()}
    save_file(other, tmp_path / "other.safetensors")
    torch.save({"model": other}, tmp_path / "other.pth")
    for name in ("other.safetensors", "other.pth"):
        assert_equal(load_timm(str(folder), str(tmp_path / name)), other)


def test_from_the_cache_of_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The layout of the cache: names of files in a snapshot, which are links to blobs named by their digests.
    cache, commit = tmp_path / "hub", "0" * 40
    repository = cache / "models--somebody--tower"
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        link = repository / "snapshots" / commit / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    backbone = build_backbone(config("hf-hub:somebody/tower"))
    assert backbone.reloadable
    state = weights(folder)
    assert all(torch.equal(x, state[key]) for key, x in backbone.tower.state_dict().items())
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(UserError, match=r"hf-hub:somebody/tower.* is damaged \(its checksum differs\)"):
        build_backbone(config("hf-hub:somebody/tower"))
    with pytest.raises(UserError, match=r"^Model 'hf-hub:somebody/else' of timm with weights 'pretrained' could not"):
        build_backbone(config("hf-hub:somebody/else"))
    with pytest.raises(UserError, match=r"^Model 'convnext_tiny\.dinov3_lvd1689m' .* \(needs a network or a filled ca"):
        build_backbone(config("convnext_tiny.dinov3_lvd1689m"))


def test_a_random_tower_has_open_branches_and_is_not_reloadable(folder: Path) -> None:
    backbone = build_backbone(config(folder, "MODEL.BACKBONE.TIMM.WEIGHTS", ""))
    assert not backbone.reloadable
    scales = [x for key, x in backbone.state_dict().items() if key.endswith("gamma")]
    assert len(scales) == 5
    assert all((x == 1).all() for x in scales)
    dinov3 = load_timm("vit_small_patch16_dinov3", "", "meta")
    assert sum(name.endswith(("gamma_1", "gamma_2")) for name, _ in dinov3.named_parameters()) == 24
    layer = torch.nn.Module()
    layer.gamma_1 = torch.nn.Parameter(torch.zeros(3))
    open_residual_branches(layer)
    assert layer.gamma_1.tolist() == [1, 1, 1]


def test_the_description_of_a_tower_builds_it_again(folder: Path, tmp_path: Path) -> None:
    for kind in ("dinov2_reg", "eva02"):
        first = load_timm(str(write_tower(tmp_path / kind, kind)))
        copy = tmp_path / f"{kind}_again"
        copy.mkdir()
        (copy / "config.json").write_text(json.dumps(architecture(first)))
        again = load_timm(str(copy), "")
        shapes = [{key: x.shape for key, x in model.state_dict().items()} for model in (first, again)]
        assert shapes[0] == shapes[1]
        assert {*again.pretrained_cfg["mean"]} == {*first.pretrained_cfg["mean"]}
        assert architecture(again) == architecture(first)


@pytest.mark.parametrize(
    ("name", "weights", "published"),
    [
        ("convnext_large.dinov3_lvd1689m", "pretrained", True),
        ("hf-hub:owner/model", "pretrained", True),
        ("convnext_large.dinov3_lvd1689m", "", False),
        ("convnext_large.dinov3_lvd1689m", "file.safetensors", False),
        ("local-dir:folder", "pretrained", False),
        (".", "pretrained", False),
    ],
)
def test_towers_that_anybody_can_load(name: str, weights: str, published: bool) -> None:
    assert is_published(name, weights) is published


def spoil(folder: Path, how: str) -> None:
    """Damage the weights of a tower in one way."""
    state, file = weights(folder), folder / "model.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "record":
        (folder / "model.safetensors.sha256").write_text("0" * 64)
    elif how == "not finite":
        save_file({**state, "stages.0.blocks.0.conv_dw.bias": torch.full((8,), torch.nan)}, file)
    elif how == "missing":
        save_file({key: x for key, x in state.items() if key != "stages.0.blocks.0.conv_dw.bias"}, file)
    elif how == "unexpected":
        save_file({**state, "more": torch.zeros(1)}, file)
    elif how == "another size":
        shutil.rmtree(folder)
        write_tower(folder, "dinov2")
        shutil.copy(file, folder.parent / "other.safetensors")
        shutil.rmtree(folder)
        write_tower(folder, "dinov2_reg")
        shutil.copy(folder.parent / "other.safetensors", file)
    elif how == "no weights":
        file.unlink()
    elif how == "no JSON":
        (folder / "config.json").write_text("{")
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "another architecture":
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "architecture": "convnext_enormous"}))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "SafetensorError"),
        ("record", r"model\.safetensors is damaged \(its checksum differs\)"),
        ("not finite", r"'stages\.0\.blocks\.0\.conv_dw\.bias' is not finite"),
        ("missing", r"Missing key\(s\) in state_dict: \"stages\.0\.blocks\.0\.conv_dw\.bias\""),
        ("unexpected", r"Unexpected key\(s\) in state_dict: \"more\""),
        ("another size", r"could not be loaded \(RuntimeError: shape"),
        ("no weights", "FileNotFoundError|No suitable"),
        ("no JSON", "JSONDecodeError"),
        ("no config", "FileNotFoundError"),
        ("another architecture", "convnext_enormous"),
    ],
)
def test_unfit_weights_are_one_sentence(folder: Path, how: str, reason: str) -> None:
    spoil(folder, how)
    with pytest.raises(UserError, match=reason) as caught:
        build_backbone(config(folder))
    message = str(caught.value)
    assert re.match(r"Model '\S+tower' of timm with weights 'pretrained' could not be loaded \(", message)
    assert message.endswith("check MODEL.BACKBONE.TIMM.MODEL_NAME and MODEL.BACKBONE.TIMM.WEIGHTS.")


def test_a_file_of_another_size(folder: Path, tmp_path: Path) -> None:
    other = write_tower(tmp_path / "other", "convnextv2") / "model.safetensors"
    with pytest.raises(UserError, match=r"could not be loaded \(RuntimeError: Error\(s\) in loading state_dict"):
        build_backbone(config(folder, "MODEL.BACKBONE.TIMM.WEIGHTS", str(other)))
    with pytest.raises(UserError, match=r"nothing\.pth is no file"):
        build_backbone(config(folder, "MODEL.BACKBONE.TIMM.WEIGHTS", str(tmp_path / "nothing.pth")))
