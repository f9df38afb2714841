"""Evaluation of the miniature Stable Diffusion: how well images follow their prompts, and simple image statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from clouds.generation.painter import Painter
from minicity.diffusion.autoencoder import to_signed_range
from minicity.world.pool import Pixels

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PromptAgreement:
    """Agreement of images with their prompts, in CLIP's space.

    Attributes:
        own: mean cosine similarity of an image and its prompt.
        other: mean cosine similarity of an image and the prompts of other images.
        wins: share of pairs of an image and another image's prompt in which the own prompt is more similar; 0.5 is
            chance.
    """

    own: float
    other: float
    wins: float


def prompt_agreement(image_features: Floats, text_features: Floats, prompts: Sequence[str]) -> PromptAgreement:
    """Compare all images with all prompts.

    Args:
        image_features: (N, D) unit-norm.
        text_features: (N, D) unit-norm, features of the prompt of each image.
        prompts: N prompts. Equal texts are not compared with each other.
    """
    similarity = image_features @ text_features.T
    own = np.diag(similarity)[:, None]
    others = np.array([[one != two for two in prompts] for one in prompts])
    return PromptAgreement(
        own=float(own.mean()), other=float(similarity[others].mean()), wins=float((own > similarity)[others].mean())
    )


def image_statistics(images: Pixels) -> Floats:
    """Compute simple statistics of images.

    Args:
        images: (N, H, W, 3) uint8 RGB.

    Returns:
        (N, 4): mean luminance 0..1; standard deviation of the luminance; mean difference of the largest and smallest
        color channel; mean difference of red and blue.
    """
    pixels = images.astype(np.float32) / 255
    luminance = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = pixels.max(axis=-1) - pixels.min(axis=-1)
    warmth = pixels[..., 0] - pixels[..., 2]
    each = [luminance.mean(axis=(1, 2)), luminance.std(axis=(1, 2)), chroma.mean(axis=(1, 2)), warmth.mean(axis=(1, 2))]
    return np.stack(each, axis=1)


def statistics_by_words(
    images: Pixels, captions: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, Floats]:
    """Return the mean of `image_statistics` over the images whose caption has one of the words of a group.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        captions: N captions.
        groups: words by name of the group.

    Returns:
        (4,) statistics by name of the group; NaN if no caption has its words.
    """
    statistics = image_statistics(images)
    found = {}
    for name, words in groups.items():
        chosen = np.array([any(word in caption for word in words) for caption in captions])
        found[name] = statistics[chosen].mean(axis=0) if chosen.any() else np.full(4, np.nan, np.float32)
    return found


@torch.inference_mode()
def reconstruction_psnr(autoencoder: Any, images: Pixels) -> float:
    """Return the mean peak signal-to-noise ratio, in dB, of reconstructed images (N, H, W, 3) uint8."""
    ratios = []
    for part in np.array_split(images, max(1, len(images) // 16)):
        true = to_signed_range(part, autoencoder.device)
        made = autoencoder.decode(autoencoder.encode(true).latent_dist.mean).sample.clamp(-1, 1)
        errors = ((made - true) / 2).square().mean(dim=(1, 2, 3))
        ratios.append(-10 * errors.log10())
    return float(torch.cat(ratios).mean())


def paint(painter: Painter, prompts: Sequence[str], seeds: Sequence[int]) -> Pixels:
    """Paint one image per prompt and seed, in batches; (N, H, W, 3) uint8 RGB."""
    pairs = list(zip(prompts, seeds, strict=True))
    painted = []
    for start in tqdm(range(0, len(pairs), painter.batch_size), desc="painting", unit="batch"):
        painted += painter(*zip(*pairs[start : start + painter.batch_size], strict=True))
    return np.stack([each.pixels for each in painted])
