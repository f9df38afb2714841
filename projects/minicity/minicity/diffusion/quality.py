"""Whether prompts steer the miniature Stable Diffusion: by a CLIP's eye, and by plain numbers of the pictures."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from minicity.diffusion.pool import Pixels
from minicity.diffusion.training import to_tensor

Floats = npt.NDArray[np.float32]

WORDS_OF_LIGHT: dict[str, tuple[str, ...]] = {
    "noon": ("at noon", "in the sunshine"),
    "morning": ("early in the morning",),
    "sunset": ("at sunset", "in the evening sun"),
    "dusk": ("at dusk", "at twilight"),
    "lamps": ("under street lamps",),
    "overcast": ("on a grey day", "under clouds"),
}
WORDS_OF_AIR: dict[str, tuple[str, ...]] = {
    "haze": ("in haze", "on a hazy day"),
    "dust": ("in a dust storm", "in dust"),
    "drizzle": ("in a drizzle",),
    "puddles": ("after a shower",),
    "frost": ("on a frosty day", "with a little snow"),
}
_GAP, _LINES, _LINE_HEIGHT = 6, 3, 12
_COLOURS = 96


@dataclass(frozen=True)
class Steering:
    """How much more a picture is like its own prompt than like those of others, as a CLIP sees it.

    Attributes:
        own: mean cosine similarity of pictures to their prompts.
        other: to the prompts of all other pictures.
        wins: share of pairs of a picture and another's prompt in which the own prompt is more similar; 0.5 is chance.
    """

    own: float
    other: float
    wins: float


def steering(image_features: Floats, text_features: Floats, prompts: Sequence[str]) -> Steering:
    """Compare all pictures with all prompts.

    Args:
        image_features: (N, D) unit-norm.
        text_features: (N, D) unit-norm, of the prompt of each.
        prompts: N; the same text twice is no other prompt.
    """
    likeness = image_features @ text_features.T
    own = np.diag(likeness)[:, None]
    others = np.array([[one != two for two in prompts] for one in prompts])
    return Steering(
        own=float(own.mean()), other=float(likeness[others].mean()), wins=float((own > likeness)[others].mean())
    )


def looks(images: Pixels) -> Floats:
    """Plain numbers of pictures.

    Args:
        images: (N, H, W, 3) uint8 RGB.

    Returns:
        (N, 4): mean luminance 0..1, its deviation over the picture, mean difference of the largest and the smallest
        colour channel, mean red minus blue.
    """
    pixels = images.astype(np.float32) / 255
    luminance = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = pixels.max(axis=-1) - pixels.min(axis=-1)
    warmth = pixels[..., 0] - pixels[..., 2]
    each = [luminance.mean(axis=(1, 2)), luminance.std(axis=(1, 2)), colour.mean(axis=(1, 2)), warmth.mean(axis=(1, 2))]
    return np.stack(each, axis=1)


def looks_by_words(images: Pixels, captions: Sequence[str], groups: dict[str, tuple[str, ...]]) -> dict[str, Floats]:
    """For each group the mean of `looks` over the pictures whose caption has one of its wordings; nan for none."""
    numbers = looks(images)
    found = {}
    for name, wordings in groups.items():
        mine = np.array([any(words in caption for words in wordings) for caption in captions])
        found[name] = numbers[mine].mean(axis=0) if mine.any() else np.full(numbers.shape[1], np.nan, np.float32)
    return found


@torch.inference_mode()
def reconstruction_psnr(autoencoder: Any, images: Pixels) -> float:
    """Mean over pictures (N, H, W, 3) uint8 of the peak signal-to-noise ratio of what comes back, in dB."""
    ratios = []
    for part in np.array_split(images, max(1, len(images) // 16)):
        true = to_tensor(part, autoencoder.device)
        made = autoencoder.decode(autoencoder.encode(true).latent_dist.mean).sample.clamp(-1, 1)
        errors = ((made - true) / 2).square().mean(dim=(1, 2, 3))
        ratios.append(-10 * errors.log10())
    return float(torch.cat(ratios).mean())


def paint(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Pixels:
    """(N, H, W, 3) uint8 pictures by a pipeline of diffusers, a prompt and a seed each."""
    pipeline.set_progress_bar_config(disable=True)
    pairs = list(zip(prompts, seeds, strict=True))
    painted = []
    for first in tqdm(range(0, len(pairs), 10), desc="painting", unit="batch"):
        texts, numbers = zip(*pairs[first : first + 10], strict=True)
        generators = [torch.Generator().manual_seed(seed) for seed in numbers]
        settings = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "np"}
        images = pipeline(prompt=list(texts), generator=generators, **settings).images
        painted.append((images * 255).round().astype(np.uint8))
    return np.concatenate(painted)


def sheet(images: Sequence[Pixels], prompts: Sequence[str], columns: int) -> Image.Image:
    """Pictures of one size in rows, each above its prompt."""
    height, width = images[0].shape[:2]
    cell = (width + _GAP, height + _LINES * _LINE_HEIGHT + _GAP)
    rows = -(-len(images) // columns)
    drawn = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    font = ImageFont.load_default(size=10)
    for place, (pixels, prompt) in enumerate(zip(images, prompts, strict=True)):
        x, y = _GAP + place % columns * cell[0], _GAP + place // columns * cell[1]
        # Few colours for each picture, chosen from its own, keep the file small and are hardly seen.
        few = Image.fromarray(pixels).quantize(_COLOURS, dither=Image.Dither.NONE).convert("RGB")
        drawn.paste(few, (x, y))
        for line, words in enumerate(textwrap.wrap(prompt, width // 5)[:_LINES]):
            ImageDraw.Draw(drawn).text((x, y + height + line * _LINE_HEIGHT), words, fill="black", font=font)
    return drawn
