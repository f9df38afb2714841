"""Draws the training data of the miniature Stable Diffusion, trains it, writes and measures it, and writes its card."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clouds.generation.device import resolve_device
from clouds.generation.painter import Painter, PaintingSettings
from clouds.generation.prompts import read_prompts
from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.backbone.open_clip_models import load_open_clip
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.images import encoded
from clouds.visualization.contact_sheet import contact_sheet
from minicity.cards import command_line, environment_of, write_card
from minicity.diffusion.autoencoder import (
    AutoencoderTraining,
    cached_latents,
    clip_feature_maps,
    to_signed_range,
    train_autoencoder,
    weights_digest,
)
from minicity.diffusion.denoiser import DenoiserTraining, train_denoiser
from minicity.diffusion.evaluation import paint, prompt_agreement, reconstruction_psnr, statistics_by_words
from minicity.diffusion.initialization import initialize_linearly
from minicity.diffusion.model import DiffusionModel, DiffusionSizes, build_model, num_parameters, write_folder
from minicity.diffusion.pool import STORED_SIZE, CaptionedScenes, draw_captioned_pool
from minicity.training.embedding import embed
from minicity.world.pool import Pixels
from minicity.world.wide import AIRS, LIGHTS, WIDE_STYLES

TRAIN_SEED, TEST_SEED = 0, 1
TEST_SCENES = 200
COMPARED_SCENES = 2000
"""Number of training scenes whose image statistics are compared with those of painted images."""
IMAGES_PER_PROMPT = 3
STEPS, GUIDANCE = 25, 3.0
SHEET_IMAGES, SHEET_COLUMNS, SHEET_COLORS = 12, 4, 128

logger = logging.getLogger(__name__)


def run(
    *,
    output: Path,
    cache: Path,
    scenes: int,
    autoencoder_steps: int,
    autoencoder_batch: int,
    denoiser_steps: int,
    denoiser_batch: int,
    clip: Path,
    prompts: Path,
    sheet: Path | None,
    workers: int,
    bfloat16: bool,
    device: str,
) -> None:
    """Train a Stable Diffusion and write it, with its card, as a folder that diffusers loads.

    Args:
        output: folder to write. It holds a usable model after each saved state of the denoiser.
        cache: folder of drawn scenes, latents and saved states.
        scenes: number of training scenes.
        autoencoder_steps: number of updates of the autoencoder.
        autoencoder_batch: number of images per update of the autoencoder.
        denoiser_steps: number of updates of the denoiser.
        denoiser_batch: number of latents per update of the denoiser.
        clip: folder of the CLIP for the perceptual loss and the evaluation.
        prompts: file of prompts for the evaluation, one per line.
        sheet: image file of a contact sheet to draw; None for none.
        workers: number of processes that draw scenes.
        bfloat16: whether the networks compute in bfloat16.
        device: cpu, cuda or auto.

    Raises:
        UserError: the device or the prompts do not exist, a saved state belongs to another training, or a loss is not
            finite.
    """
    flags = {
        "scenes": scenes,
        "autoencoder_steps": autoencoder_steps,
        "autoencoder_batch": autoencoder_batch,
        "denoiser_steps": denoiser_steps,
        "denoiser_batch": denoiser_batch,
        "bfloat16": bfloat16,
    }
    device = resolve_device(device)
    # Checked before hours of training, although it is needed after them.
    texts = read_prompts(prompts)
    if sheet:
        make_folder(sheet.parent)
    pool = draw_captioned_pool(cache / "pool", WIDE_STYLES, TRAIN_SEED, scenes, workers)
    logger.info("%d scenes, %d different captions", len(pool), len(set(pool.captions)))
    autoencoder = AutoencoderTraining(
        steps=autoencoder_steps, batch_size=autoencoder_batch, learning_rate=3e-4, bfloat16=bfloat16
    )
    denoiser = DenoiserTraining(steps=denoiser_steps, batch_size=denoiser_batch, learning_rate=1e-3, bfloat16=bfloat16)
    model, seconds = _train(pool, autoencoder, denoiser, clip, cache, output, device)
    write_card(
        output,
        "diffusion.md.jinja",
        library="diffusers",
        task="text-to-image",
        parameters=num_parameters(model),
        command=command_line("train_diffusion.py", flags),
        num_scenes=scenes,
        size=STORED_SIZE,
        steps=STEPS,
        guidance=GUIDANCE,
        seconds=seconds,
        environment=environment_of(device),
        prompt_file=prompts.name,
        **_measure(output, pool, texts, cache, clip, sheet, workers, device),
    )
    logger.info("Written to %s", output)


def _train(
    pool: CaptionedScenes,
    autoencoder: AutoencoderTraining,
    denoiser: DenoiserTraining,
    clip: Path,
    cache: Path,
    output: Path,
    device: str,
) -> tuple[DiffusionModel, dict[str, float]]:
    """Train both stages and write the folder; return the averaged model and the seconds of each stage."""
    torch.manual_seed(TRAIN_SEED)
    model = build_model(DiffusionSizes())
    some = pool.images[:: max(1, len(pool) // 300)]
    initialize_linearly(model.autoencoder, to_signed_range(some, torch.device("cpu")))
    for network in (model.autoencoder, model.text_encoder, model.denoiser):
        network.to(device)
    seconds = {}
    clip_model: Any = load_open_clip(str(clip))
    seconds["autoencoder"] = train_autoencoder(
        model.autoencoder,
        pool.images,
        autoencoder,
        cache / "autoencoder.pt",
        clip_feature_maps(clip_model.visual.to(device)),
    )
    # The latents of another autoencoder are other training data.
    state_file = cache / f"denoiser_{weights_digest(model.autoencoder)}.pt"
    latents, seconds["latents"] = cached_latents(model.autoencoder, pool.images, cache, bfloat16=autoencoder.bfloat16)
    averaged, seconds["text encoder and denoiser"] = train_denoiser(
        model, latents, pool.captions, denoiser, state_file, lambda averaged: write_folder(averaged, output)
    )
    write_folder(averaged, output)  # also if the training was complete before
    return averaged, seconds


def _measure(
    folder: Path,
    pool: CaptionedScenes,
    prompts: Sequence[str],
    cache: Path,
    clip_folder: Path,
    sheet: Path | None,
    workers: int,
    device: str,
) -> dict[str, Any]:
    """Measure the model of a folder, draw its contact sheet, and return the values of the card's tables."""
    settings = PaintingSettings(model=str(folder), scheduler="default", steps=STEPS, guidance=GUIDANCE)
    painter = Painter(settings, device=device, batch_size=10)
    clip = CLIP.from_folder(clip_folder).to(device)
    texts = [*prompts] * IMAGES_PER_PROMPT
    painted = paint(painter, texts, range(len(texts)))
    drawn = draw_captioned_pool(cache / "test", WIDE_STYLES, TEST_SEED, TEST_SCENES, workers)
    if sheet:
        draw_sheet(painted[: len(prompts)], prompts, sheet)
    return {
        "psnr": reconstruction_psnr(painter.pipeline.vae, drawn.images),
        "agreement": {
            f"painted, {len(texts)} images": prompt_agreement(*embed(clip, painted, texts), texts),
            f"drawn, {len(drawn)} new scenes": prompt_agreement(
                *embed(clip, drawn.images, drawn.captions), drawn.captions
            ),
        },
        "statistics": _compare_statistics(painted, texts, pool),
    }


def _compare_statistics(
    painted: Pixels, prompts: Sequence[str], pool: CaptionedScenes
) -> dict[str, list[tuple[float, float]]]:
    """Return pairs of statistics, of painted images and of drawn scenes, by the words for each light and weather."""
    kinds: Mapping[str, Sequence[str]] = {
        ", ".join(kind.words): kind.words for kinds in (LIGHTS, AIRS) for kind in kinds.values() if any(kind.words)
    }
    ours = statistics_by_words(painted, prompts, kinds)
    theirs = statistics_by_words(pool.images[:COMPARED_SCENES], pool.captions[:COMPARED_SCENES], kinds)
    return {words: list(zip(ours[words].tolist(), theirs[words].tolist(), strict=True)) for words in kinds}


def draw_sheet(images: Pixels, prompts: Sequence[str], file: Path) -> None:
    """Write a contact sheet of up to `SHEET_IMAGES` images with their prompts, reduced to a palette.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        prompts: prompt of each image.
        file: PNG file to write.
    """
    chosen = np.linspace(0, len(images) - 1, min(SHEET_IMAGES, len(images))).round().astype(int)
    sheet = contact_sheet(
        [Image.fromarray(images[index]) for index in chosen],
        [prompts[index] for index in chosen],
        title="Painted by the miniature Stable Diffusion",
        columns=SHEET_COLUMNS,
        cell_width=images.shape[2],
    )
    write_atomically(file, encoded(sheet.quantize(SHEET_COLORS), "PNG", optimize=True))
