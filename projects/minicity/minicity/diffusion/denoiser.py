"""Training of text encoder and denoiser, the second stage of the miniature Stable Diffusion.

Letters: B latents of L channels and h x w elements, N images in total, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from minicity.diffusion.model import DiffusionModel, build_scheduler
from minicity.diffusion.settings import DiffusionTraining
from minicity.training.loop import fit


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining(DiffusionTraining):
    """Settings of the training of text encoder and denoiser.

    Attributes:
        without_caption: share of the images without their caption, for classifier-free guidance.
        ema: decay of the moving average of the weights.
    """

    without_caption: float = 0.1
    ema: float = 0.999


class DenoisingObjective:
    """Loss of each step. Its images and noise follow from the step's number and the seed."""

    def __init__(
        self,
        model: DiffusionModel,
        latents: npt.NDArray[np.float16],
        captions: list[str],
        settings: DenoiserTraining,
    ) -> None:
        self.model = model
        self.latents = latents
        self.settings = settings
        self.device = model.denoiser.device
        self.tokens = self._tokenize(captions)
        self.no_caption = self._tokenize([""])
        self.alphas = build_scheduler().alphas_cumprod.to(self.device)

    def _tokenize(self, texts: list[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        found: Tensor = self.model.tokenizer(texts, **options)["input_ids"]
        return found

    def loss(self, step: int) -> Tensor:
        """Return the loss of a step, a scalar."""
        rng = np.random.default_rng([self.settings.seed, step])
        size = self.settings.batch_size
        chosen, mirrored = rng.integers(self.latents.shape[1], size=size), rng.integers(2, size=size)
        clean = torch.from_numpy(self.latents[mirrored, chosen]).float()
        tokens = self.tokens[torch.from_numpy(chosen)]
        tokens[torch.from_numpy(rng.random(size) < self.settings.without_caption)] = self.no_caption
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        # Evenly spread over the batch: that makes its loss, and so the gradient, less noisy.
        times = torch.from_numpy((rng.random() + np.arange(size) / size) % 1 * len(self.alphas)).long()
        return self.denoising_loss(*(each.to(self.device) for each in (clean, noise, times, tokens)))

    def denoising_loss(self, clean: Tensor, noise: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Squared error of v (Salimans and Ho, ICLR 2022) with equal weights for all noise levels.

        A min-SNR weight would be 0 at the highest noise level, where the text matters most.

        Args:
            clean: (B, L, h, w) latents.
            noise: (B, L, h, w) standard normal.
            times: (B,) time steps 0..999.
            tokens: (B, T) captions.

        Returns:
            Scalar.
        """
        alpha = self.alphas[times].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            text = self.model.text_encoder(tokens).last_hidden_state
            predicted = self.model.denoiser(noisy, times, text).sample.float()
        return F.mse_loss(predicted, velocity)


def train_denoiser(
    model: DiffusionModel,
    latents: npt.NDArray[np.float16],
    captions: list[str],
    settings: DenoiserTraining,
    state_file: Path,
    on_save: Callable[[DiffusionModel], None] = lambda model: None,
) -> tuple[DiffusionModel, float]:
    """Train text encoder and denoiser in place. Resumes from `state_file` if it exists.

    Args:
        model: networks on the device to train on.
        latents: (2, N, L, h, w) latents of `cached_latents`.
        captions: N captions.
        settings: settings of the training.
        state_file: file of the saved state.
        on_save: called with the averaged model after every saved state.

    Returns:
        Model with averaged weights, and the training time in seconds, interrupted runs included.

    Raises:
        UserError: the state belongs to another training, or a loss is not finite.
    """
    # On a CPU, the backward pass of fused attention takes as long as everything else.
    if model.denoiser.device.type == "cpu":
        model.denoiser.set_attn_processor(AttnProcessor())
        model.text_encoder.set_attn_implementation("eager")
    both = nn.ModuleDict({"text_encoder": model.text_encoder, "denoiser": model.denoiser})
    average = AveragedModel(both, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
    networks: Any = average.module
    averaged = DiffusionModel(model.autoencoder, networks["text_encoder"], model.tokenizer, networks["denoiser"])
    objective = DenoisingObjective(model, latents, captions, settings)
    optimizer = torch.optim.AdamW(both.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    seconds = fit(
        both,
        objective.loss,
        [optimizer],
        settings,
        state_file=state_file,
        name="training the denoiser",
        data={"images": len(captions)},
        average=average,
        on_save=lambda: on_save(averaged),
    )
    return averaged, seconds
