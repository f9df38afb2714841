"""Tiny towers in timm's layout: a folder with `config.json` and random weights of some 100 kB at most."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from clouds.d2 import CfgNode
from clouds.modeling.initialization import open_residual_branches
from tests.parity import golden

_SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2}

TOWERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "convnext": ("convnext_tiny", {"num_classes": 10, "depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}),
    "convnextv2": ("convnextv2_tiny", {"num_classes": 10, "depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"num_classes": 10, "depths": [1, 1, 2, 1], "embed_dim": 8, "num_heads": [1, 2, 2, 2], "img_size": 64},
    ),
    "dinov2": ("vit_small_patch14_dinov2", {**_SMALL, "img_size": 70}),
    "dinov2_reg": ("vit_small_patch14_reg4_dinov2", {**_SMALL, "img_size": 70}),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", {**_SMALL, "img_size": 64}),
    "eva02": ("eva02_large_patch14_clip_336", {**_SMALL, "img_size": 70, "mlp_ratio": 2.0}),
    "siglip": ("vit_base_patch16_siglip_512", {**_SMALL, "img_size": 64}),
}
"""Kind of a tower -> its architecture in timm, and arguments that make it small."""

PLAIN = ("dinov2", "dinov2_reg", "dinov3", "eva02", "siglip")
"""Kinds of plain transformers."""


def config(name: object, *opts: object, backbone: str = "TimmTower") -> CfgNode:
    """Return the config of a small network on a tower of timm."""
    timm_name = ("MODEL.BACKBONE.NAME", backbone, "MODEL.BACKBONE.TIMM.MODEL_NAME", str(name))
    return golden.golden_config("convnext_closed", *timm_name, *opts)


def write_tower(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """Write a tower of `TOWERS` with random weights into a new folder, and return it."""
    architecture, arguments = TOWERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(architecture, **arguments)
        open_residual_branches(model)
        for parameter in model.parameters():  # biases and embeddings, too, have to have an effect
            torch.nn.init.trunc_normal_(parameter, mean=float(parameter.detach().mean()), std=0.05)
    settings = {key: model.pretrained_cfg[key] for key in ("mean", "std", "num_classes", "input_size")}
    config = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": settings}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder
