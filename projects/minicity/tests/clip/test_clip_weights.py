"""The miniature CLIPs in the repository."""

import cv2
import numpy as np
import open_clip
import pytest
import torch
from minicity.clip.evaluation import crop_accuracy, retrieval
from minicity.clip.pool import draw_scenes_and_crops
from minicity.clip.regions import VIEW
from minicity.paths import PROJECT, REPOSITORY
from minicity.training.embedding import embed
from minicity.world.pool import draw_scene
from minicity.world.wide import WIDE_STYLES

import clouds.modeling.backbone  # noqa: F401  (registers the towers)
from clouds.config import load_config
from clouds.d2 import build_backbone
from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.modeling.backbone.clip import CLIP

CONFIGS = {"clip": "warmup_clip.yaml", "clip_resnet": "warmup_clip_resnet.yaml"}


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_is_small_and_open_clip_loads_it(name: str):
    folder = PROJECT / "weights" / name
    files = [file for file in folder.iterdir() if file.is_file()]
    weights = "open_clip_model.safetensors"
    assert {file.name for file in files} == {"README.md", "open_clip_config.json", weights, f"{weights}.sha256"}
    assert sum(file.stat().st_size for file in files) < 14e6
    model = open_clip.create_model(f"local-dir:{folder}")
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
    assert open_clip.get_tokenizer(f"local-dir:{folder}")("a street").shape == (1, model.context_length)


def test_frozen_it_classifies_new_crops(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    clip = build_backbone(load_config(f"projects/minicity/configs/{CONFIGS[name]}"))
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    _, crops = draw_scenes_and_crops(WIDE_STYLES, 7, range(16), 12)
    assert crop_accuracy(clip, crops).all > 2.5 / len(CITYSCAPES_CLASSES)


def test_it_finds_the_caption_of_a_scene(name: str):
    clip = CLIP.from_folder(PROJECT / "weights" / name)
    drawn = [draw_scene(WIDE_STYLES, 7, index)[0] for index in range(16)]
    images = np.stack([cv2.resize(each.image, VIEW[::-1], interpolation=cv2.INTER_AREA) for each in drawn])
    captions = [each.caption for each in drawn]
    assert retrieval(*embed(clip, images, captions), captions).at_5 > 1.5 * 5 / 16
