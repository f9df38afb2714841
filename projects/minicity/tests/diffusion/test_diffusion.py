"""The miniature Stable Diffusion: its words, its training, and the folder that it becomes."""

import copy
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from minicity.diffusion import training
from minicity.diffusion.fit import Stage, fit
from minicity.diffusion.model import WORDS, Sizes, build_parts, build_tokenizer, merge, vocabulary_of, write_folder
from minicity.diffusion.pool import draw_captioned, draw_captioned_pool
from minicity.diffusion.quality import looks, looks_by_words, reconstruction_psnr, sheet, steering
from minicity.diffusion.start import start_linear
from minicity.world.styles import STYLES
from minicity.world.wide import AIRS, LIGHTS, WIDE_STYLES
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from clouds.errors import UserError
from clouds.generation.prompts import read_prompts
from tests.commands import script

ROOT = Path(__file__).parents[4]
generate_txt_im = script("generate_txt_im.py")
PROMPTS = ROOT / "projects/minicity/configs/prompts.txt"
TINY = Sizes(image=(32, 64), autoencoder=(8, 12, 16), latent_channels=4, denoiser=(32, 32), text=32, text_layers=1)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return build_parts(TINY)


@pytest.fixture(scope="module")
def drawn():
    return draw_captioned(WIDE_STYLES, 0, range(150))


def pictures(count=6):
    """Of one colour each, which a tiny network learns in a few steps."""
    colours = np.random.default_rng(0).integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (count, *TINY.image, 3)).copy()


def assert_words_are_tokens(tokenizer, texts):
    spelt = {token for text in texts for token in tokenizer.tokenize(text) if not token.endswith("</w>")}
    assert not spelt
    for text in texts:
        words = text.lower().replace(",", " ,").replace(".", " .").split()
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(text)] == words
        assert len(tokenizer(text)["input_ids"]) <= tokenizer.model_max_length


def test_every_word_of_a_caption_is_one_token(drawn):
    assert_words_are_tokens(build_tokenizer(), drawn.captions)


def test_every_word_of_the_prompts_is_one_token_and_one_of_a_wide_caption(drawn):
    prompts = read_prompts(PROMPTS)
    assert 90 <= len(set(prompts)) == len(prompts) <= 120
    assert_words_are_tokens(build_tokenizer(), prompts)
    whens = {when for style in WIDE_STYLES for when in style.when if when}
    others = {when for style in STYLES.values() for when in style.when} - whens
    others -= {part for when in whens for part in others if part in when}
    for prompt in prompts:
        assert not [when for when in others if when in prompt], prompt


def test_prompts_tell_of_every_light_every_air_and_everything():
    text = " ".join(read_prompts(PROMPTS))
    for kinds in (LIGHTS, AIRS):
        assert [words for kind in kinds.values() for words in kind.words if words not in text] == []
    things = "train bus truck car motorcycle bicycle rider people pedestrians trees buildings wall fence dirt grass"
    things = [*things.split(), "traffic light", "traffic sign", "busy", "quiet"]
    assert [thing for thing in things if thing not in text] == []


def test_a_word_that_begins_like_another_is_still_one_token():
    words = ("street", "tree", "trees", "rees", "eet", "st")
    vocabulary, merges = vocabulary_of(words)
    assert [merge(word, dict.fromkeys(merges)) for word in words] == [[f"{word}</w>"] for word in words]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert merge("streets", dict.fromkeys(merges))[-1] == "s</w>"


def test_drawn_pictures_follow_from_their_number(drawn, tmp_path):
    again = draw_captioned(WIDE_STYLES, 0, range(2, 4))
    assert again.images.shape == (2, 128, 256, 3)
    assert (again.images == drawn.images[2:4]).all()
    kept = draw_captioned_pool(tmp_path, WIDE_STYLES, 0, 3, 1)
    assert (kept.images == drawn.images[:3]).all()
    assert kept.captions == drawn.captions[:3]


def test_rate_rises_stays_and_falls():
    stage = Stage(steps=100, batch_size=1, learning_rate=1.0, warmup=10, cooldown=0.5)
    assert [stage.rate(step) for step in (0, 4, 9, 49, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert stage.rate(75) == pytest.approx(0.5)
    assert 0 < stage.rate(99) < 0.05


def test_reconstruction_loss_sees_pixels_steps_and_scale():
    true = torch.zeros(1, 3, 16, 16)
    assert training.reconstruction_loss(true, true) == 0
    flat, rough = true + 0.1, true.clone()
    rough[..., ::2] = 0.1
    rough[..., 1::2] = -0.1
    # The same error in each pixel: one all at coarse scales, the other all in the steps.
    assert training.reconstruction_loss(flat, true) == pytest.approx(0.1 + 0.5 * 0.2)
    assert training.reconstruction_loss(rough, true) == pytest.approx(0.1 + 0.5 * 0.2)


def test_feature_loss_compares_directions():
    true = torch.randn(2, 3, 4, 4)
    assert training.feature_loss([true, 3 * true], [true, true]) == pytest.approx(0, abs=1e-6)
    assert training.feature_loss([-true, true], [true, true]) == pytest.approx(1)


def test_autoencoder_learns_and_is_resumed_exactly(parts, tmp_path, monkeypatch):
    recipe = training.AutoencoderRecipe(steps=24, batch_size=4, learning_rate=1e-2, warmup=5, save_every=8)
    before = reconstruction_psnr(parts.autoencoder, pictures())
    training.train_autoencoder(parts.autoencoder, pictures(), recipe, tmp_path / "a.pt", lambda x: [x])
    assert reconstruction_psnr(parts.autoencoder, pictures()) > before + 1

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(*args)

    calls, original = [], training.reconstruction_loss
    torch.manual_seed(0)
    second = build_parts(TINY).autoencoder
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "reconstruction_loss", interrupted)
        training.train_autoencoder(second, pictures(), recipe, tmp_path / "b.pt", lambda x: [x])
    torch.manual_seed(0)
    second = build_parts(TINY).autoencoder
    training.train_autoencoder(second, pictures(), recipe, tmp_path / "b.pt", lambda x: [x])
    assert training.fingerprint(second) == training.fingerprint(parts.autoencoder)


def test_standardised_latents_make_the_same_pictures(parts, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, *TINY.image, 3), dtype=np.uint8)
    true = training.to_tensor(pixels, torch.device("cpu"))

    def there_and_back():
        found = parts.autoencoder.encode(true).latent_dist
        return found, parts.autoencoder.decode(found.mean + 0.7 * found.std).sample

    with torch.no_grad():
        before, made = there_and_back()
        latents, _ = training.latents_of(parts.autoencoder, pixels, tmp_path)
        after, again = there_and_back()
    torch.testing.assert_close(again, made, rtol=1e-4, atol=1e-4)
    assert before.mean.std(dim=(0, 2, 3)).max() < 0.9  # there was something to do
    torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=1e-3, atol=1e-3)
    scaled = after.mean.numpy() * parts.autoencoder.config.scaling_factor
    assert latents.shape == (2, 8, 4, *TINY.latent)
    assert np.abs(latents[0] - scaled).max() < 0.01
    mirrored = training.encode_images(parts.autoencoder, pixels[:, :, ::-1]) * parts.autoencoder.config.scaling_factor
    assert np.abs(latents[1] - mirrored).max() < 0.01


def test_kept_latents_and_their_statistics_serve_on_any_processor(parts, tmp_path, monkeypatch):
    trained = copy.deepcopy(parts.autoencoder)
    latents, seconds = training.latents_of(parts.autoencoder, pictures(), tmp_path)
    monkeypatch.delattr(training, "encode_images")  # which would find slightly other statistics elsewhere
    again, as_before = training.latents_of(trained, pictures(), tmp_path)
    assert (again == latents).all()
    assert as_before == seconds
    assert training.fingerprint(trained) == training.fingerprint(parts.autoencoder)


CAPTIONS = ["a bus", "a train", "trees", "a wall", "two cars", "a street at dusk"]


def toy_latents():
    clean = np.random.default_rng(1).normal(size=(1, 6, 4, 1, 1)).repeat(TINY.latent[0], 3).repeat(TINY.latent[1], 4)
    return np.concatenate([clean, clean]).astype(np.float16)


def trained_denoiser(file, recipe):
    torch.manual_seed(0)
    parts = build_parts(TINY)
    return training.train_denoiser(parts, toy_latents(), CAPTIONS, recipe, file)[0]


RECIPE = training.DenoiserRecipe(steps=24, batch_size=8, learning_rate=3e-3, warmup=5, save_every=8, ema=0.9)


def test_denoiser_learns_and_is_resumed_exactly(tmp_path, monkeypatch):
    values, original = [], training.Denoising.loss

    def noted(self, step):
        values.append(original(self, step))
        if len(values) == 60:
            raise KeyboardInterrupt
        return values[-1]

    monkeypatch.setattr(training.Denoising, "loss", noted)
    straight = trained_denoiser(tmp_path / "a.pt", RECIPE)
    first, last = (torch.stack(part).mean() for part in (values[:6], values[18:24]))
    assert last < 0.8 * first

    values += [torch.zeros(())] * 16  # so that the next run stops in its 20th step
    with pytest.raises(KeyboardInterrupt):
        trained_denoiser(tmp_path / "b.pt", RECIPE)
    monkeypatch.setattr(training.Denoising, "loss", original)
    resumed = trained_denoiser(tmp_path / "b.pt", RECIPE)
    for name in ("denoiser", "text_encoder"):
        assert training.fingerprint(getattr(straight, name)) == training.fingerprint(getattr(resumed, name))


def test_a_perfect_denoiser_has_no_loss(parts, monkeypatch):
    course = training.Denoising(parts, toy_latents(), CAPTIONS, RECIPE)
    clean, noise = torch.randn(2, 2, 4, *TINY.latent)
    times = torch.tensor([100, 999])
    signal = course.alphas[times].sqrt().view(-1, 1, 1, 1)
    spread = (1 - signal.square()).sqrt()

    def perfect(noisy, when, text):
        torch.testing.assert_close(noisy, signal * clean + spread * noise)
        return type("Output", (), {"sample": signal * noise - spread * clean})

    course.parts = dataclasses.replace(parts, denoiser=perfect)
    assert course.denoising_loss(clean, noise, times, course.tokens[:2]) < 1e-10
    assert signal[1] < 1e-3  # the last of the times leaves nothing of the picture


def test_some_captions_are_left_out(parts, monkeypatch):
    shown = []
    monkeypatch.setattr(
        training.Denoising, "denoising_loss", lambda self, *args: shown.append(args[-1]) or torch.zeros(())
    )
    course = training.Denoising(parts, toy_latents(), CAPTIONS, RECIPE)
    kept = course.tokens.clone()
    for step in range(100):
        course.loss(step)
    silent = (torch.cat(shown) == course.silence).all(dim=1).float().mean()
    assert 0.05 < silent < 0.16
    assert course.tokens.equal(kept)


def test_average_is_what_is_handed_on(tmp_path):
    stage = Stage(steps=3, batch_size=1, learning_rate=0.5, warmup=1)
    part = nn.Linear(1, 1)
    average = torch.optim.swa_utils.AveragedModel(part, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    saved = []
    fit(part, lambda step: part.weight.sum(), stage, tmp_path / "s.pt", "x", 1, average, lambda: saved.append(1))
    assert saved == [1]
    assert average.module.weight.item() > part.weight.item()


def test_a_stage_may_end_later_or_sooner_but_not_become_another(tmp_path):
    def steps_made(num_pictures=5, **changes):
        part, made = nn.Linear(1, 1), []
        stage = dataclasses.replace(Stage(steps=2, batch_size=1, learning_rate=0.5, save_every=1), **changes)
        fit(part, lambda step: made.append(step) or part.weight.sum(), stage, tmp_path / "s.pt", "x", num_pictures)
        return made

    assert steps_made() == [0, 1]
    assert steps_made(steps=4, save_every=2) == [2, 3]
    for other, told in (
        ({"steps": 3}, "4 steps done"),
        ({"steps": 4, "batch_size": 2}, "batch_size 1"),
        ({"steps": 4, "num_pictures": 6}, "pictures 5 instead of 6"),
    ):
        with pytest.raises(UserError, match=told):
            steps_made(**other)


@pytest.fixture
def folder(parts, tmp_path):
    write_folder(parts, tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_is_half_precision_and_offline(folder, parts):
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    assert next(parts.denoiser.parameters()).dtype == torch.float32
    pipeline = AutoPipelineForText2Image.from_pretrained(folder, local_files_only=True)
    assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.safety_checker is None
    images = pipeline(["a bus", "trees"], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, *TINY.image, 3)
    assert_words_are_tokens(pipeline.tokenizer, [" ".join(WORDS)[:200].rsplit(" ", 1)[0]])
    assert json.loads((folder / "tokenizer/vocab.json").read_text()) == pipeline.tokenizer.get_vocab()


def test_the_commands_painter_paints_with_it(folder, tmp_path):
    flags = ["--model", str(folder), "--input", str(PROMPTS), "--output-root", str(tmp_path), "--device", "cpu"]
    assert generate_txt_im.main([*flags, "--folder", "sd_tiny", "--num-images", "3", "--steps", "2"]) == 0
    assert len(list((tmp_path / "stable_diffusion/sd_tiny/images").glob("*.png"))) == 3


def test_steering_of_pictures_that_are_their_prompts():
    text = np.eye(3, dtype=np.float32)
    right, wrong = steering(text, text, ["a", "b", "c"]), steering(text[::-1].copy(), text, ["a", "b", "c"])
    assert (right.own, right.other, right.wins) == (1, 0, 1)
    assert wrong.wins == pytest.approx(2 / 6)
    same = steering(text, text, ["a", "a", "c"])
    assert same.other == pytest.approx(0)


def test_looks_of_plain_pictures():
    images = np.zeros((2, 2, 2, 3), np.uint8)
    images[0] = 255
    images[1, 0] = (255, 0, 0)
    assert looks(images)[0] == pytest.approx([1, 0, 0, 0])
    assert looks(images)[1] == pytest.approx([0.1495, 0.1495, 0.5, 0.5])
    found = looks_by_words(images, ["a street at noon", "a street at dusk"], {"noon": ("at noon",), "none": ("fog",)})
    assert found["noon"][0] == 1
    assert np.isnan(found["none"]).all()


def test_sheet_shows_every_picture():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]  # the words are grey
    pixels = np.asarray(sheet([np.full((32, 64, 3), each, np.uint8) for each in colours], ["a bus"] * 3, 2))
    assert [(pixels == each).all(axis=-1).sum() for each in colours] == [32 * 64] * 3


@pytest.fixture
def command():
    spec = importlib.util.spec_from_file_location(
        "train_diffusion", ROOT / "projects/minicity/tools/train_diffusion.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_draws_trains_measures_and_describes(command, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "TEST_SCENES", 2)
    monkeypatch.setattr(command, "STEPS", 2)
    monkeypatch.setattr(command, "IMAGES_PER_PROMPT", 1)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A photo of a street at noon with a bus.\n\nA photo of a road at dusk with trees.\n\n")
    flags = f"--cache {tmp_path}/cache --prompts {prompts} --sheet {tmp_path}/sheets/sheet.png"
    flags += " --scenes 4 --autoencoder-steps 2 --autoencoder-batch 2 --denoiser-steps 2 --denoiser-batch 2 --workers 1"
    sizes = dataclasses.replace(TINY, image=(128, 256))
    command.train(command.parse_arguments(["--output", f"{tmp_path}/model", *flags.split()]), sizes)
    card = (tmp_path / "model/README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n---\n")
    for words in ("at dusk", "in haze", "own prompt wins", "text tower and denoiser"):
        assert words in card
    assert "painted, 2 pictures" in card
    assert (tmp_path / "sheets/sheet.png").is_file()
    # All is trained; what is left is to write it.
    monkeypatch.setattr(command, "measure", lambda *args: [])
    command.train(command.parse_arguments(["--output", f"{tmp_path}/other", *flags.split()]), sizes)
    for file in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (tmp_path / "other" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--denoiser-steps", "0"], "--denoiser-steps is 0; it must be 1 or more"),
        (["--device", "gpu"], "--device gpu is no device of torch"),
        (["--prompts", "nothing.txt"], "Prompt file nothing.txt cannot be read"),
    ],
)
def test_bad_flags_are_told_in_a_sentence_before_anything_is_drawn(command, flags, told, tmp_path, capsys):
    assert command.main(["--cache", str(tmp_path / "cache"), *flags]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_the_autoencoder_begins_as_a_linear_code_of_colours(drawn):
    torch.manual_seed(0)
    sizes = Sizes(autoencoder=(16, 24, 32, 48, 56), latent_channels=6)
    autoencoder = build_parts(sizes).autoencoder
    images = training.to_tensor(drawn.images, torch.device("cpu"))
    before = reconstruction_psnr(autoencoder, drawn.images[:16])
    start_linear(autoencoder, images[32:96])
    with torch.no_grad():
        latents = autoencoder.encode(images[:32]).latent_dist
        made = autoencoder.decode(latents.mean).sample
    assert reconstruction_psnr(autoencoder, drawn.images[:16]) > max(18, before + 5)
    assert latents.std.max() < 0.1
    assert latents.mean.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.4
    # The colour of each square comes back: not all of it, but what is wrong is less than what there was.
    true, ours = (F.avg_pool2d(each - each.mean(dim=1, keepdim=True), 16) for each in (images[:32], made))
    assert (ours - true).abs().mean() < 0.6 * true.abs().mean()
