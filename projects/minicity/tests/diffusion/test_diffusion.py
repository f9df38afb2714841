"""Training of the miniature Stable Diffusion, and the folder that it is written to."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from minicity.diffusion import autoencoder as stage1
from minicity.diffusion import denoiser as stage2
from minicity.diffusion.evaluation import (
    reconstruction_psnr,
)
from minicity.diffusion.initialization import initialize_linearly
from minicity.diffusion.model import DiffusionSizes, build_model, write_folder
from minicity.diffusion.pool import draw_captioned_pool, draw_captioned_scenes
from minicity.diffusion.settings import DiffusionTraining
from minicity.diffusion.tokenizer import WORDS
from minicity.paths import PROJECT
from minicity.training.loop import fit
from minicity.world.wide import WIDE_STYLES
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from clouds.commands import generate
from clouds.errors import UserError

PROMPTS = PROJECT / "configs/prompts.txt"
TINY = DiffusionSizes(
    image=(32, 64), autoencoder=(8, 12, 16), latent_channels=4, denoiser=(32, 32), text=32, text_layers=1
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(TINY)


def plain_images(count=6):
    """Images of one color each, which a tiny network learns in a few steps."""
    colors = np.random.default_rng(0).integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colors, (count, *TINY.image, 3)).copy()


def test_drawn_scenes_follow_from_their_index(drawn, tmp_path):
    again = draw_captioned_scenes(WIDE_STYLES, 0, range(2, 4))
    assert again.images.shape == (2, 128, 256, 3)
    assert (again.images == drawn.images[2:4]).all()
    kept = draw_captioned_pool(tmp_path, WIDE_STYLES, 0, 3, 1)
    assert (kept.images == drawn.images[:3]).all()
    assert kept.captions == drawn.captions[:3]


def test_learning_rate_rises_stays_and_falls():
    settings = DiffusionTraining(steps=100, batch_size=1, learning_rate=1.0, warmup=10, cooldown=0.5)
    assert [settings.rate(step) for step in (0, 4, 9, 49, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert settings.rate(75) == pytest.approx(0.5)
    assert 0 < settings.rate(99) < 0.05


def test_reconstruction_loss_compares_pixels_gradients_and_coarse_scales():
    true = torch.zeros(1, 3, 16, 16)
    assert stage1.reconstruction_loss(true, true) == 0
    flat, rough = true + 0.1, true.clone()
    rough[..., ::2] = 0.1
    rough[..., 1::2] = -0.1
    # Equal errors per pixel, at coarse scales only or in the gradients only.
    assert stage1.reconstruction_loss(flat, true) == pytest.approx(0.1 + 0.5 * 0.2)
    assert stage1.reconstruction_loss(rough, true) == pytest.approx(0.1 + 0.5 * 0.2)


def test_perceptual_loss_compares_directions():
    true = torch.randn(2, 3, 4, 4)
    assert stage1.perceptual_loss([true, 3 * true], [true, true]) == pytest.approx(0, abs=1e-6)
    assert stage1.perceptual_loss([-true, true], [true, true]) == pytest.approx(1)


def test_autoencoder_learns_and_is_resumed_exactly(model, tmp_path, monkeypatch):
    settings = stage1.AutoencoderTraining(steps=24, batch_size=4, learning_rate=1e-2, warmup=5, save_every=8)
    before = reconstruction_psnr(model.autoencoder, plain_images())
    stage1.train_autoencoder(model.autoencoder, plain_images(), settings, tmp_path / "a.pt", lambda x: [x])
    assert reconstruction_psnr(model.autoencoder, plain_images()) > before + 1

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(*args)

    calls, original = [], stage1.reconstruction_loss
    torch.manual_seed(0)
    second = build_model(TINY).autoencoder
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage1, "reconstruction_loss", interrupted)
        stage1.train_autoencoder(second, plain_images(), settings, tmp_path / "b.pt", lambda x: [x])
    torch.manual_seed(0)
    second = build_model(TINY).autoencoder
    stage1.train_autoencoder(second, plain_images(), settings, tmp_path / "b.pt", lambda x: [x])
    assert stage1.weights_digest(second) == stage1.weights_digest(model.autoencoder)


def test_standardized_latents_have_the_same_reconstructions(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, *TINY.image, 3), dtype=np.uint8)
    true = stage1.to_signed_range(pixels, torch.device("cpu"))

    def there_and_back():
        found = model.autoencoder.encode(true).latent_dist
        return found, model.autoencoder.decode(found.mean + 0.7 * found.std).sample

    with torch.no_grad():
        before, made = there_and_back()
        latents, _ = stage1.cached_latents(model.autoencoder, pixels, tmp_path)
        after, again = there_and_back()
    torch.testing.assert_close(again, made, rtol=1e-4, atol=1e-4)
    assert before.mean.std(dim=(0, 2, 3)).max() < 0.9  # not standardized before
    torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=1e-3, atol=1e-3)
    scaled = after.mean.numpy() * model.autoencoder.config.scaling_factor
    assert latents.shape == (2, 8, 4, *TINY.latent)
    assert np.abs(latents[0] - scaled).max() < 0.01
    mirrored = stage1.encode_images(model.autoencoder, pixels[:, :, ::-1]) * model.autoencoder.config.scaling_factor
    assert np.abs(latents[1] - mirrored).max() < 0.01


def test_stored_latents_and_statistics_are_used_again(model, tmp_path, monkeypatch):
    trained = copy.deepcopy(model.autoencoder)
    latents, seconds = stage1.cached_latents(model.autoencoder, plain_images(), tmp_path)
    monkeypatch.delattr(stage1, "encode_images")  # nothing is computed again
    again, as_before = stage1.cached_latents(trained, plain_images(), tmp_path)
    assert (again == latents).all()
    assert as_before == seconds
    assert stage1.weights_digest(trained) == stage1.weights_digest(model.autoencoder)


CAPTIONS = ["a bus", "a train", "trees", "a wall", "two cars", "a street at dusk"]


def toy_latents():
    clean = np.random.default_rng(1).normal(size=(1, 6, 4, 1, 1)).repeat(TINY.latent[0], 3).repeat(TINY.latent[1], 4)
    return np.concatenate([clean, clean]).astype(np.float16)


def trained_denoiser(file, settings):
    torch.manual_seed(0)
    model = build_model(TINY)
    return stage2.train_denoiser(model, toy_latents(), CAPTIONS, settings, file)[0]


SETTINGS = stage2.DenoiserTraining(steps=24, batch_size=8, learning_rate=3e-3, warmup=5, save_every=8, ema=0.9)


def test_denoiser_learns_and_is_resumed_exactly(tmp_path, monkeypatch):
    values, original = [], stage2.DenoisingObjective.loss

    def noted(self, step):
        values.append(original(self, step))
        if len(values) == 60:
            raise KeyboardInterrupt
        return values[-1]

    monkeypatch.setattr(stage2.DenoisingObjective, "loss", noted)
    straight = trained_denoiser(tmp_path / "a.pt", SETTINGS)
    first, last = (torch.stack(part).mean() for part in (values[:6], values[18:24]))
    assert last < 0.8 * first

    values += [torch.zeros(())] * 16  # the next run stops in its 20th step
    with pytest.raises(KeyboardInterrupt):
        trained_denoiser(tmp_path / "b.pt", SETTINGS)
    monkeypatch.setattr(stage2.DenoisingObjective, "loss", original)
    resumed = trained_denoiser(tmp_path / "b.pt", SETTINGS)
    for name in ("denoiser", "text_encoder"):
        assert stage1.weights_digest(getattr(straight, name)) == stage1.weights_digest(getattr(resumed, name))


def test_a_perfect_denoiser_has_no_loss(model, monkeypatch):
    objective = stage2.DenoisingObjective(model, toy_latents(), CAPTIONS, SETTINGS)
    clean, noise = torch.randn(2, 2, 4, *TINY.latent)
    times = torch.tensor([100, 999])
    signal = objective.alphas[times].sqrt().view(-1, 1, 1, 1)
    spread = (1 - signal.square()).sqrt()

    def perfect(noisy, when, text):
        torch.testing.assert_close(noisy, signal * clean + spread * noise)
        return type("Output", (), {"sample": signal * noise - spread * clean})

    objective.model = dataclasses.replace(model, denoiser=perfect)
    assert objective.denoising_loss(clean, noise, times, objective.tokens[:2]) < 1e-10
    assert signal[1] < 1e-3  # the last time step leaves nothing of the latents


def test_some_captions_are_left_out(model, monkeypatch):
    shown = []
    monkeypatch.setattr(
        stage2.DenoisingObjective, "denoising_loss", lambda self, *args: shown.append(args[-1]) or torch.zeros(())
    )
    objective = stage2.DenoisingObjective(model, toy_latents(), CAPTIONS, SETTINGS)
    kept = objective.tokens.clone()
    for step in range(100):
        objective.loss(step)
    silent = (torch.cat(shown) == objective.no_caption).all(dim=1).float().mean()
    assert 0.05 < silent < 0.16
    assert objective.tokens.equal(kept)


def fit_one(module, loss, settings, file, num_images=5, **more):
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate)
    data = {"images": num_images}
    return fit(module, loss, [optimizer], settings, state_file=file, name="training", data=data, **more)


def test_the_average_follows_the_weights(tmp_path):
    settings = DiffusionTraining(steps=3, batch_size=1, learning_rate=0.5, warmup=1)
    part = nn.Linear(1, 1)
    average = torch.optim.swa_utils.AveragedModel(part, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    saved = []
    saving = {"average": average, "on_save": lambda: saved.append(1)}
    fit_one(part, lambda step: part.weight.sum(), settings, tmp_path / "s.pt", **saving)
    assert saved == [1]
    assert average.module.weight.item() > part.weight.item()


def test_only_the_number_of_steps_may_change_when_resuming(tmp_path):
    settings = DiffusionTraining(steps=2, batch_size=1, learning_rate=0.5, save_every=1)

    def steps_made(num_images=5, **changes):
        part, made = nn.Linear(1, 1), []
        changed = dataclasses.replace(settings, **changes)
        fit_one(part, lambda step: made.append(step) or part.weight.sum(), changed, tmp_path / "s.pt", num_images)
        return made

    assert steps_made() == [0, 1]
    assert steps_made(steps=4, save_every=2) == [2, 3]
    for other, message in (
        ({"steps": 3}, "done 4 steps, not 3"),
        ({"steps": 4, "batch_size": 2}, "batch_size is 1 instead of 2"),
        ({"steps": 4, "num_images": 6}, "images is 5 instead of 6"),
    ):
        with pytest.raises(UserError, match=message):
            steps_made(**other)


@pytest.fixture
def folder(model, tmp_path):
    write_folder(model, tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_is_in_half_precision_and_loads_offline(folder, model):
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    assert next(model.denoiser.parameters()).dtype == torch.float32
    pipeline = AutoPipelineForText2Image.from_pretrained(folder, local_files_only=True)
    assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.safety_checker is None
    images = pipeline(["a bus", "trees"], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, *TINY.image, 3)
    assert pipeline.tokenizer.tokenize(" ".join(WORDS[:9])) == [f"{word}</w>" for word in WORDS[:9]]
    assert json.loads((folder / "tokenizer/vocab.json").read_text()) == pipeline.tokenizer.get_vocab()


def test_generate_txt_im_paints_with_it(folder, tmp_path):
    flags = ["--model", str(folder), "--input", str(PROMPTS), "--output-root", str(tmp_path), "--device", "cpu"]
    assert generate.main([*flags, "--folder", "sd_tiny", "--num-images", "3", "--steps", "2"]) == 0
    assert len(list((tmp_path / "stable_diffusion/sd_tiny/images").glob("*.png"))) == 3


def test_the_autoencoder_starts_as_a_linear_code_of_colors(drawn):
    torch.manual_seed(0)
    sizes = DiffusionSizes(autoencoder=(16, 24, 32, 48, 56), latent_channels=6)
    autoencoder = build_model(sizes).autoencoder
    images = stage1.to_signed_range(drawn.images, torch.device("cpu"))
    before = reconstruction_psnr(autoencoder, drawn.images[:16])
    initialize_linearly(autoencoder, images[32:96])
    with torch.no_grad():
        latents = autoencoder.encode(images[:32]).latent_dist
        made = autoencoder.decode(latents.mean).sample
    assert reconstruction_psnr(autoencoder, drawn.images[:16]) > max(18, before + 5)
    assert latents.std.max() < 0.1
    assert latents.mean.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.4
    # The color of each square is reconstructed with an error smaller than the color itself.
    true, ours = (F.avg_pool2d(each - each.mean(dim=1, keepdim=True), 16) for each in (images[:32], made))
    assert (ours - true).abs().mean() < 0.6 * true.abs().mean()
