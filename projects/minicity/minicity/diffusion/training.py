"""How the miniature Stable Diffusion learns: first its autoencoder, then the latents, then text tower and denoiser.

The pictures are those of `minicity.world.wide`, never of a validation domain.

Legend: B pictures of H x W pixels, L latent channels, h x w latents of a picture, N pictures in all, T tokens.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from clouds.utils.atomic import atomic_file
from minicity.clip.training import clip_normalised
from minicity.diffusion.fit import Stage, fit
from minicity.diffusion.model import Parts, build_scheduler
from minicity.diffusion.pool import Pixels

Critic = Callable[[Tensor], Sequence[Tensor]]
"""(B, 3, H, W) pictures, 0..1, to maps (B, C, .., ..) of a frozen network."""


def reconstruction_loss(made: Tensor, true: Tensor) -> Tensor:
    """How far pictures are from the true ones: in each pixel, in its steps to the next, and at coarser scales.

    Args:
        made: (B, 3, H, W), -1..1.
        true: likewise.

    Returns:
        Scalar: absolute differences, each kind of them a mean.
    """
    error = made - true
    steps = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    coarse = sum(F.avg_pool2d(error, size).abs().mean() for size in (4, 16))
    return error.abs().mean() + 0.5 * steps + 0.5 * coarse


def clip_critic(tower: Any) -> Critic:
    """The first three maps of the image tower of an open_clip model, which is frozen here."""
    tower.eval().requires_grad_(False)

    def look(pixels: Tensor) -> list[Tensor]:
        out = tower.forward_intermediates(
            clip_normalised(pixels), indices=[0, 1, 2], stop_early=True, intermediates_only=True
        )
        return list(out["image_intermediates"])

    return look


def feature_loss(made: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
    """LPIPS (Zhang et al., CVPR 2018) without weights: how far maps are from each other, in directions.

    Args:
        made: maps (B, C, .., ..) of the pictures that were made.
        true: of the true ones.
    """
    pairs = zip(made, true, strict=True)
    each = [1 - F.cosine_similarity(one.float(), other.float(), dim=1).mean() for one, other in pairs]
    return torch.stack(each).mean()


@dataclass(frozen=True)
class AutoencoderRecipe(Stage):
    """How the autoencoder is trained: ``kl`` and ``seeing`` are the weights of the prior and of `feature_loss`."""

    kl: float = 3e-4
    seeing: float = 0.3


def train_autoencoder(
    autoencoder: Any, images: Pixels, recipe: AutoencoderRecipe, state_file: Path, critic: Critic | None = None
) -> float:
    """Train an ``AutoencoderKL`` in place, on the pictures and their mirror images; see `fit`.

    Args:
        autoencoder: on the device to train on.
        images: (N, H, W, 3) uint8.
        recipe: see `AutoencoderRecipe`.
        state_file: see `fit`.
        critic: whose maps of the reconstructions shall be those of the pictures.
    """
    autoencoder.to(memory_format=torch.channels_last)
    device = autoencoder.device

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, step])
        chosen = np.sort(rng.choice(len(images), min(recipe.batch_size, len(images)), replace=False))
        pixels = images[chosen][:, :, :: -1 if rng.random() < 0.5 else 1]
        true = to_tensor(pixels, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.half):
            latents = autoencoder.encode(true).latent_dist
            noise = torch.randn(latents.mean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
            made = autoencoder.decode(latents.mean + latents.std * noise.to(device)).sample.float()
            value = reconstruction_loss(made, true) + recipe.kl * latents.kl().mean() / latents.mean[0].numel()
            if critic is not None and recipe.seeing > 0:
                with torch.no_grad():
                    seen = critic(true / 2 + 0.5)
                value = value + recipe.seeing * feature_loss(critic(made / 2 + 0.5), seen)
        return value

    return fit(autoencoder, loss, recipe, state_file, "training the autoencoder", len(images))


def to_tensor(pixels: Pixels, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W), -1..1."""
    batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2)
    return batch.float() / 127.5 - 1


@torch.inference_mode()
def encode_images(autoencoder: Any, images: Pixels, *, half: bool = False) -> npt.NDArray[np.float32]:
    """(N, H, W, 3) uint8 -> (N, L, h, w): the means of the latents."""
    found = []
    for part in tqdm(np.array_split(images, max(1, len(images) // 16)), desc="encoding", unit="batch", leave=False):
        with torch.autocast(autoencoder.device.type, torch.bfloat16, enabled=half):
            latents = autoencoder.encode(to_tensor(part, autoencoder.device)).latent_dist.mean
        found.append(latents.float().cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def standardise(autoencoder: Any, mean: Tensor, std: Tensor) -> None:
    """Shift and stretch each latent channel to mean 0 and deviation 1, in the 1x1 convolutions around the latents.

    Args:
        autoencoder: changed in place; what it makes of a picture stays the same.
        mean: (L,) of the latents so far.
        std: (L,) likewise.
    """
    channels = len(mean)
    before, after = autoencoder.quant_conv, autoencoder.post_quant_conv
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[channels:] -= 2 * std.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]


def latents_of(
    autoencoder: Any, images: Pixels, folder: Path, *, half: bool = False
) -> tuple[npt.NDArray[np.float16], float]:
    """The latents of the pictures and of their mirror images, in a file that is kept.

    The autoencoder is left with standardised latents, and with their remaining scale in its configuration.

    Args:
        autoencoder: trained.
        images: (N, H, W, 3) uint8.
        folder: of the file, which is named after the autoencoder as it comes.
        half: compute in bfloat16.

    Returns:
        (2, N, L, h, w), as the denoiser shall see them: already scaled; and the seconds it took.
    """
    file = folder / f"latents_{fingerprint(autoencoder)}.npz"
    if file.is_file():
        with np.load(file) as stored:
            kept = dict(stored)
    else:
        some = torch.from_numpy(encode_images(autoencoder, images[:2000], half=half))
        kept = {"mean": some.mean(dim=(0, 2, 3)).numpy(), "std": some.std(dim=(0, 2, 3)).numpy()}
    # Those in the file, because another processor would find slightly others, and the denoiser learns from these.
    mean, std = (torch.from_numpy(kept[name]).to(autoencoder.device) for name in ("mean", "std"))
    standardise(autoencoder, mean, std)
    if "latents" not in kept:
        began = time.perf_counter()
        both = np.stack([encode_images(autoencoder, images[:, :, ::way], half=half) for way in (1, -1)])
        # In the order in which they are read back, on which it depends how convolutions round.
        kept["latents"] = np.ascontiguousarray(both)
        kept["seconds"] = np.array(time.perf_counter() - began)
        with atomic_file(file) as part_file, part_file.open("wb") as stream:
            np.savez(stream, **kept)
    latents, seconds = kept["latents"], float(kept["seconds"])
    scale = round(1 / float(latents.std()), 4)
    autoencoder.register_to_config(scaling_factor=scale)
    return (latents * scale).astype(np.float16), seconds


def fingerprint(network: nn.Module) -> str:
    """Twelve hexadecimal digits that follow from all weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class DenoiserRecipe(Stage):
    """How text tower and denoiser are trained.

    ``silent``: share of the pictures that come without their caption, for classifier-free guidance.
    ``ema``: how much of the averaged weights stays at each step.
    """

    silent: float = 0.1
    ema: float = 0.999


class Denoising:
    """What the denoiser is shown, and how far it is from seeing through the noise."""

    def __init__(self, parts: Parts, latents: npt.NDArray[np.float16], captions: list[str], recipe: DenoiserRecipe):
        self.parts = parts
        self.latents = latents
        self.recipe = recipe
        self.device = parts.denoiser.device
        self.tokens = self._tokens(captions)
        self.silence = self._tokens([""])
        self.alphas = build_scheduler().alphas_cumprod.to(self.device)

    def _tokens(self, texts: list[str]) -> Tensor:
        settings = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        found: Tensor = self.parts.tokenizer(texts, **settings)["input_ids"]
        return found

    def loss(self, step: int) -> Tensor:
        """Of step number ``step``, whose pictures and noise follow from that number and the seed."""
        rng = np.random.default_rng([self.recipe.seed, step])
        size = self.recipe.batch_size
        chosen, mirrored = rng.integers(self.latents.shape[1], size=size), rng.integers(2, size=size)
        clean = torch.from_numpy(self.latents[mirrored, chosen]).float()
        tokens = self.tokens[torch.from_numpy(chosen)]
        tokens[torch.from_numpy(rng.random(size) < self.recipe.silent)] = self.silence
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        # Evenly spread over the batch, which makes its loss, and so the gradient, less noisy.
        times = torch.from_numpy((rng.random() + np.arange(size) / size) % 1 * len(self.alphas)).long()
        return self.denoising_loss(*(each.to(self.device) for each in (clean, noise, times, tokens)))

    def denoising_loss(self, clean: Tensor, noise: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Squared error of v (Salimans and Ho, ICLR 2022), alike for all amounts of noise.

        At the most noise, where the words decide most, a weight by min-SNR would be 0.

        Args:
            clean: (B, L, h, w).
            noise: likewise.
            times: (B,) 0..999.
            tokens: (B, T).

        Returns:
            Scalar.
        """
        alpha = self.alphas[times].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.half):
            text = self.parts.text_encoder(tokens).last_hidden_state
            guess = self.parts.denoiser(noisy, times, text).sample.float()
        return F.mse_loss(guess, velocity)


def train_denoiser(
    parts: Parts,
    latents: npt.NDArray[np.float16],
    captions: list[str],
    recipe: DenoiserRecipe,
    state_file: Path,
    on_save: Callable[[Parts], None] = lambda parts: None,
) -> tuple[Parts, float]:
    """Train text tower and denoiser in place; see `fit`.

    Args:
        parts: on the device to train on.
        latents: as `latents_of` returns them.
        captions: N.
        recipe: see `DenoiserRecipe`.
        state_file: see `fit`.
        on_save: given what `Parts` are worth using so far, each time the state has been written.

    Returns:
        The parts with averaged weights, and the seconds it took.
    """
    from diffusers.models.attention_processor import AttnProcessor

    # On a CPU the backward pass of the fused attention takes as long as all the rest.
    if parts.denoiser.device.type == "cpu":
        parts.denoiser.set_attn_processor(AttnProcessor())
        parts.text_encoder.set_attn_implementation("eager")
    both = nn.ModuleDict({"text_encoder": parts.text_encoder, "denoiser": parts.denoiser})
    average = AveragedModel(both, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    networks: Any = average.module
    averaged = Parts(parts.autoencoder, networks["text_encoder"], parts.tokenizer, networks["denoiser"])
    course = Denoising(parts, latents, captions, recipe)
    seconds = fit(
        both,
        course.loss,
        recipe,
        state_file,
        "training the denoiser",
        len(captions),
        average,
        lambda: on_save(averaged),
    )
    return averaged, seconds
