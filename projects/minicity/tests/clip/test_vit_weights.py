"""The miniature ViT in the repository."""

import numpy as np
import pytest
import timm
import torch
from minicity.clip.pool import CaptionedImages, draw_scenes_and_crops
from minicity.paths import PROJECT, REPOSITORY
from minicity.training.images import clip_input
from minicity.world.wide import WIDE_STYLES
from torch.nn import functional as F

import clouds.modeling.backbone  # noqa: F401  (registers the towers)
from clouds.config import load_config
from clouds.d2 import build_backbone

FOLDER = PROJECT / "weights/vit"


def test_it_is_small_and_timm_loads_it():
    files = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert files.keys() == {"README.md", "config.json", "model.safetensors", "model.safetensors.sha256"}
    assert sum(files.values()) < 6e6
    tower = timm.create_model(f"local-dir:{FOLDER}", pretrained=True)
    assert tower(torch.zeros(1, 3, 64, 128)).shape == (1, 128)


@torch.no_grad()
def nearest_mean_accuracy(tower: torch.nn.Module, crops: CaptionedImages) -> float:
    """Classify each crop of the later scenes by the nearest mean feature of a class in the earlier ones."""
    features = F.normalize(tower(clip_input(crops.images, torch.device("cpu")))["res5"].mean(dim=(2, 3)))
    labels = torch.from_numpy(crops.labels).long()
    known = torch.from_numpy(crops.scenes < np.median(crops.scenes))
    classes = labels[known].unique()
    means = torch.stack([features[known & (labels == label)].mean(dim=0) for label in classes])
    found = classes[torch.cdist(features[~known], means).argmin(dim=1)]
    return float((found == labels[~known]).float().mean())


def test_its_frozen_features_tell_classes_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    config = "projects/minicity/configs/warmup_vit.yaml"
    trained, random = (
        build_backbone(load_config(config, settings)).eval() for settings in ([], ["MODEL.BACKBONE.TIMM.WEIGHTS", ""])
    )
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    _, crops = draw_scenes_and_crops(WIDE_STYLES, 7, range(40), 12)
    assert nearest_mean_accuracy(trained, crops) > 1.5 * nearest_mean_accuracy(random, crops)
