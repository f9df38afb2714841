"""The miniature CLIP that the repository carries."""

from pathlib import Path

import pytest
import torch

import clouds.modeling.backbone  # noqa: F401  (registers the towers)
from clouds.config import load_config
from clouds.d2 import build_backbone
from clouds.data.labels import CITYSCAPES_CLASSES
from clouds.minicity.clip_quality import predict_classes
from clouds.minicity.pool import draw_captioned
from clouds.minicity.wide import WIDE_STYLES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "weights/minicity_clip"


def test_it_is_small_and_half_precision():
    files = [file for file in FOLDER.iterdir() if file.is_file()]
    assert {file.name for file in files} == {"README.md", "open_clip_config.json", "open_clip_model.safetensors"}
    assert sum(file.stat().st_size for file in files) < 16e6


def test_frozen_it_knows_words_for_what_it_never_saw(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    clip = build_backbone(load_config("configs/minicity/warmup_clip.yaml"))
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    classifier = clip.text_classifier(CITYSCAPES_CLASSES)
    _, crops = draw_captioned(WIDE_STYLES, 7, range(16), 12)

    def encode_image(images: torch.Tensor) -> torch.Tensor:
        return clip.clip_model.encode_image(images, normalize=True)

    found = predict_classes(encode_image, classifier.embeddings, classifier.names_per_class, crops.images)
    assert (found == crops.labels).mean() > 2.5 / len(CITYSCAPES_CLASSES)
