"""Training of the autoencoder, the first stage of the miniature Stable Diffusion, and the latents of the images.

The images are those of `minicity.world.wide`, never of a validation domain.

Letters: B images of H x W pixels, N images in total, L latent channels, h x w latents of an image.
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
from tqdm import tqdm

from clouds.utils.atomic import atomic_file
from minicity.diffusion.settings import DiffusionTraining
from minicity.training.images import normalize_for_clip
from minicity.training.loop import fit
from minicity.world.pool import Pixels

FeatureMaps = Callable[[Tensor], Sequence[Tensor]]
"""Maps images (B, 3, H, W) in 0..1 to feature maps (B, C, ..., ...) of a frozen network."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining(DiffusionTraining):
    """Settings of the training of the autoencoder.

    Attributes:
        kl: weight of the Kullback-Leibler divergence from the prior.
        perceptual: weight of `perceptual_loss`.
    """

    kl: float = 3e-4
    perceptual: float = 0.3


def reconstruction_loss(reconstructed: Tensor, true: Tensor) -> Tensor:
    """Sum of mean absolute errors: of pixels, of differences between neighbors, and of means over larger squares.

    Args:
        reconstructed: (B, 3, H, W) in -1..1.
        true: (B, 3, H, W) in -1..1.

    Returns:
        Scalar.
    """
    error = reconstructed - true
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    coarse = sum(F.avg_pool2d(error, size).abs().mean() for size in (4, 16))
    return error.abs().mean() + 0.5 * gradients + 0.5 * coarse


def clip_feature_maps(tower: Any) -> FeatureMaps:
    """Return a function that computes the first three feature maps of the image tower of an open_clip model.

    Args:
        tower: image tower with a timm trunk; it is frozen in place.
    """
    tower.eval().requires_grad_(False)

    def features(images: Tensor) -> list[Tensor]:
        out = tower.forward_intermediates(
            normalize_for_clip(images), indices=[0, 1, 2], stop_early=True, intermediates_only=True
        )
        return list(out["image_intermediates"])

    return features


def perceptual_loss(reconstructed: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
    """LPIPS (Zhang et al., CVPR 2018) without weights: mean cosine distance of feature maps.

    Args:
        reconstructed: feature maps (B, C, ..., ...) of the reconstructed images.
        true: feature maps of the true images, of the same shapes.

    Returns:
        Scalar.
    """
    pairs = zip(reconstructed, true, strict=True)
    each = [1 - F.cosine_similarity(one.float(), other.float(), dim=1).mean() for one, other in pairs]
    return torch.stack(each).mean()


def train_autoencoder(
    autoencoder: Any,
    images: Pixels,
    settings: AutoencoderTraining,
    state_file: Path,
    feature_maps: FeatureMaps | None = None,
) -> float:
    """Train an `AutoencoderKL` in place on images and their mirror images. Resumes from `state_file` if it exists.

    Args:
        autoencoder: autoencoder on the device to train on.
        images: (N, H, W, 3) uint8 RGB.
        settings: settings of the training.
        state_file: file of the saved state.
        feature_maps: feature maps for the perceptual loss; None for no such loss.

    Returns:
        Training time in seconds, interrupted runs included.

    Raises:
        UserError: the state belongs to another training, or a loss is not finite.
    """
    autoencoder.to(memory_format=torch.channels_last)
    device = autoencoder.device

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([settings.seed, step])
        chosen = np.sort(rng.choice(len(images), min(settings.batch_size, len(images)), replace=False))
        pixels = images[chosen][:, :, :: -1 if rng.random() < 0.5 else 1]
        true = to_signed_range(pixels, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            latents = autoencoder.encode(true).latent_dist
            noise = torch.randn(latents.mean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
            made = autoencoder.decode(latents.mean + latents.std * noise.to(device)).sample.float()
            value = reconstruction_loss(made, true) + settings.kl * latents.kl().mean() / latents.mean[0].numel()
            if feature_maps is not None and settings.perceptual > 0:
                with torch.no_grad():
                    wanted = feature_maps(true / 2 + 0.5)
                value = value + settings.perceptual * perceptual_loss(feature_maps(made / 2 + 0.5), wanted)
        return value

    optimizer = torch.optim.AdamW(
        autoencoder.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    return fit(
        autoencoder,
        loss,
        [optimizer],
        settings,
        state_file=state_file,
        name="training the autoencoder",
        data={"images": len(images)},
    )


def to_signed_range(images: Pixels, device: torch.device) -> Tensor:
    """Convert images (B, H, W, 3) uint8 to (B, 3, H, W) float in -1..1."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
    return batch.float() / 127.5 - 1


@torch.inference_mode()
def encode_images(autoencoder: Any, images: Pixels, *, bfloat16: bool = False) -> npt.NDArray[np.float32]:
    """Encode images (N, H, W, 3) uint8 into the means of their latents, (N, L, h, w) float32."""
    found = []
    for part in tqdm(np.array_split(images, max(1, len(images) // 16)), desc="encoding", unit="batch", leave=False):
        with torch.autocast(autoencoder.device.type, torch.bfloat16, enabled=bfloat16):
            latents = autoencoder.encode(to_signed_range(part, autoencoder.device)).latent_dist.mean
        found.append(latents.float().cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def standardize(autoencoder: Any, mean: Tensor, std: Tensor) -> None:
    """Scale each latent channel to mean 0 and deviation 1, by the 1x1 convolutions before and after the latents.

    Args:
        autoencoder: changed in place; its reconstructions stay the same.
        mean: (L,) mean of the present latents.
        std: (L,) standard deviation of the present latents.
    """
    channels = len(mean)
    before, after = autoencoder.quant_conv, autoencoder.post_quant_conv
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[channels:] -= 2 * std.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]


def cached_latents(
    autoencoder: Any, images: Pixels, folder: Path, *, bfloat16: bool = False
) -> tuple[npt.NDArray[np.float16], float]:
    """Return the latents of images and of their mirror images. They are computed once and stored in a file.

    The latents of the autoencoder are standardized in place, and their remaining scale is written to its config.

    Args:
        autoencoder: trained autoencoder.
        images: (N, H, W, 3) uint8 RGB.
        folder: folder of the file, whose name identifies the autoencoder's weights.
        bfloat16: whether to compute in bfloat16.

    Returns:
        (2, N, L, h, w) scaled latents, as the denoiser sees them; seconds that the computation took.
    """
    file = folder / f"latents_{weights_digest(autoencoder)}.npz"
    if file.is_file():
        with np.load(file) as stored:
            kept = dict(stored)
    else:
        some = torch.from_numpy(encode_images(autoencoder, images[:2000], bfloat16=bfloat16))
        kept = {"mean": some.mean(dim=(0, 2, 3)).numpy(), "std": some.std(dim=(0, 2, 3)).numpy()}
    # The stored statistics: another processor would compute slightly different ones than the denoiser is trained with.
    mean, std = (torch.from_numpy(kept[name]).to(autoencoder.device) for name in ("mean", "std"))
    standardize(autoencoder, mean, std)
    if "latents" not in kept:
        began = time.perf_counter()
        both = np.stack([encode_images(autoencoder, images[:, :, ::way], bfloat16=bfloat16) for way in (1, -1)])
        # Contiguous, as they are after reading the file: rounding in convolutions depends on the memory layout.
        kept["latents"] = np.ascontiguousarray(both)
        kept["seconds"] = np.array(time.perf_counter() - began)
        with atomic_file(file) as stream:
            np.savez(stream, **kept)
    latents, seconds = kept["latents"], float(kept["seconds"])
    scale = round(1 / float(latents.std()), 4)
    autoencoder.register_to_config(scaling_factor=scale)
    return (latents * scale).astype(np.float16), seconds


def weights_digest(network: nn.Module) -> str:
    """Return twelve hexadecimal digits that identify the weights of a network."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
