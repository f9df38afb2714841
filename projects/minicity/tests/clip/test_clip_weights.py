"""The miniature CLIPs that the repository carries."""

from pathlib import Path

import open_clip
import pytest
import torch
from minicity.clip.pool import draw_captioned
from minicity.clip.quality import features, predict_classes, retrieval
from minicity.diffusion.pool import draw_captioned as draw_streets
from minicity.world.wide import WIDE_STYLES

import clouds.modeling.backbone  # noqa: F401  (registers the towers)
from clouds.config import load_config
from clouds.d2 import build_backbone
from clouds.data.classes import CITYSCAPES_CLASSES
from clouds.modeling.backbone.clip import CLIP

ROOT = Path(__file__).parents[4]
CONFIGS = {"clip": "warmup_clip.yaml", "clip_resnet": "warmup_clip_resnet.yaml"}


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_is_small_half_precision_and_open_clips(name: str):
    folder = ROOT / "projects/minicity/weights" / name
    files = [file for file in folder.iterdir() if file.is_file()]
    assert {file.name for file in files} == {"README.md", "open_clip_config.json", "open_clip_model.safetensors"}
    assert sum(file.stat().st_size for file in files) < 14e6
    model = open_clip.create_model(f"local-dir:{folder}")
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
    assert open_clip.get_tokenizer(f"local-dir:{folder}")("a street").shape == (1, model.context_length)


def test_frozen_it_knows_words_for_what_it_never_saw(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    clip = build_backbone(load_config(f"projects/minicity/configs/{CONFIGS[name]}"))
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    classifier = clip.text_classifier(CITYSCAPES_CLASSES)
    _, crops = draw_captioned(WIDE_STYLES, 7, range(16), 12)

    def encode_image(images: torch.Tensor) -> torch.Tensor:
        return clip.clip_model.encode_image(images, normalize=True)

    found = predict_classes(encode_image, classifier.embeddings, classifier.names_per_class, crops.images)
    assert (found == crops.labels).mean() > 2.5 / len(CITYSCAPES_CLASSES)


def test_it_finds_the_caption_of_a_street(name: str):
    clip = CLIP.from_folder(ROOT / "projects/minicity/weights" / name)
    streets = draw_streets(WIDE_STYLES, 7, range(16))
    seen, read = features(clip, streets.images, streets.captions)
    assert retrieval(seen, read, streets.captions).first_five > 1.5 * 5 / 16
