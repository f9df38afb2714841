"""Evaluation and command of the miniature Stable Diffusion."""

import numpy as np
import pytest
from huggingface_hub import ModelCard
from minicity.diffusion import run
from minicity.diffusion.evaluation import (
    image_statistics,
    prompt_agreement,
    statistics_by_words,
)
from minicity.diffusion.model import DiffusionSizes
from PIL import Image

from tests.commands import script

command = script("projects/minicity/tools/train_diffusion.py")
SIZES = DiffusionSizes(
    image=(128, 256), autoencoder=(8, 12, 16), latent_channels=4, denoiser=(32, 32), text=32, text_layers=1
)


def test_agreement_of_images_that_equal_their_prompts():
    text = np.eye(3, dtype=np.float32)
    right = prompt_agreement(text, text, ["a", "b", "c"])
    wrong = prompt_agreement(text[::-1].copy(), text, ["a", "b", "c"])
    assert (right.own, right.other, right.wins) == (1, 0, 1)
    assert wrong.wins == pytest.approx(2 / 6)
    same = prompt_agreement(text, text, ["a", "a", "c"])
    assert same.other == pytest.approx(0)


def test_statistics_of_plain_images():
    images = np.zeros((2, 2, 2, 3), np.uint8)
    images[0] = 255
    images[1, 0] = (255, 0, 0)
    assert image_statistics(images)[0] == pytest.approx([1, 0, 0, 0])
    assert image_statistics(images)[1] == pytest.approx([0.1495, 0.1495, 0.5, 0.5])
    found = statistics_by_words(
        images, ["a street at noon", "a street at dusk"], {"noon": ("at noon",), "none": ("fog",)}
    )
    assert found["noon"][0] == 1
    assert np.isnan(found["none"]).all()


def test_the_sheet_shows_some_images(tmp_path):
    colors = np.random.default_rng(0).integers(0, 256, (40, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colors, (40, 32, 64, 3)).copy()
    run.draw_sheet(images, ["a bus"] * 40, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    shown = [(np.abs(pixels - color).max(axis=-1) < 8).sum() >= 32 * 64 for color in colors[:, 0, 0]]
    assert shown[0]
    assert shown[-1]
    assert sum(shown) >= run.SHEET_IMAGES


def test_the_command_draws_trains_measures_and_writes_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TEST_SCENES", 2)
    monkeypatch.setattr(run, "STEPS", 2)
    monkeypatch.setattr(run, "IMAGES_PER_PROMPT", 1)
    monkeypatch.setattr(run, "DiffusionSizes", lambda: SIZES)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A photo of a street at noon with a bus.\n\nA photo of a road at dusk with trees.\n\n")
    flags = f"--cache {tmp_path}/cache --prompts {prompts} --sheet {tmp_path}/sheets/sheet.png"
    flags += " --scenes 4 --autoencoder-steps 2 --autoencoder-batch 2 --denoiser-steps 2 --denoiser-batch 2 --workers 1"
    assert command.main(["--output", f"{tmp_path}/model", *flags.split()]) == 0
    card = ModelCard.load(tmp_path / "model/README.md")
    assert card.data.license == "apache-2.0"
    for words in ("at dusk", "in haze", "own prompt wins", "text encoder and denoiser", "painted, 2 images"):
        assert words in card.text
    assert (tmp_path / "sheets/sheet.png").is_file()
    # The training is complete, so a second run only writes the folder.
    monkeypatch.setattr(run, "_measure", lambda *args: {"psnr": 1.0, "agreement": {}, "statistics": {}})
    assert command.main(["--output", f"{tmp_path}/other", *flags.split()]) == 0
    for file in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (tmp_path / "other" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "gpu"], "--device gpu is no device of torch"),
        (["--prompts", "nothing.txt"], "Prompt file nothing.txt cannot be read"),
    ],
)
def test_bad_arguments_are_reported_before_anything_is_drawn(flags, message, tmp_path, capsys):
    assert command.main(["--cache", str(tmp_path / "cache"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
