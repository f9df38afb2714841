"""The networks of the miniature Stable Diffusion, untrained, and the folder that diffusers loads.

The classes are those of the large model: an autoencoder that makes an image sixteen times smaller, a text encoder, and
a denoiser that reads the text. Only the sizes differ.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from clouds.utils.atomic import atomic_folder, write_atomically
from clouds.utils.hashing import write_sha256
from minicity.diffusion.tokenizer import CONTEXT_LENGTH, WORDS, build_tokenizer, build_vocabulary


@dataclass(frozen=True)
class DiffusionSizes:
    """Sizes of the networks.

    Attributes:
        image: default height and width of painted images, in pixels.
        autoencoder: channels of the levels of the autoencoder; each level after the first halves the sides.
        latent_channels: channels of the latents.
        denoiser: channels of the levels of the denoiser; all but the last read the text.
        layers: number of residual blocks per level of the denoiser.
        text: width of the text encoder.
        text_layers: number of layers of the text encoder.
    """

    image: tuple[int, int] = (128, 256)
    autoencoder: tuple[int, ...] = (16, 32, 64, 96, 112)
    latent_channels: int = 12
    denoiser: tuple[int, ...] = (64, 96, 112)
    layers: int = 1
    text: int = 128
    text_layers: int = 2

    @property
    def factor(self) -> int:
        """Side of the square of pixels that becomes one latent."""
        return int(2 ** (len(self.autoencoder) - 1))

    @property
    def latent(self) -> tuple[int, int]:
        """Height and width of the latents of an image."""
        return self.image[0] // self.factor, self.image[1] // self.factor


@dataclass(frozen=True)
class DiffusionModel:
    """The networks, as classes of diffusers and transformers, and the tokenizer."""

    autoencoder: Any
    text_encoder: Any
    tokenizer: Any
    denoiser: Any


def build_model(sizes: DiffusionSizes) -> DiffusionModel:
    """Return untrained networks. Torch's global random generator initializes their weights."""
    tokenizer = build_tokenizer()
    return DiffusionModel(
        autoencoder=build_autoencoder(sizes),
        text_encoder=build_text_encoder(sizes, tokenizer),
        tokenizer=tokenizer,
        denoiser=build_denoiser(sizes),
    )


def build_autoencoder(sizes: DiffusionSizes) -> Any:
    """Return an `AutoencoderKL`."""
    levels = len(sizes.autoencoder)
    return AutoencoderKL(
        block_out_channels=sizes.autoencoder,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=sizes.latent_channels,
        # On a CPU, the backward pass of many small groups takes as long as everything else.
        norm_num_groups=1,
        sample_size=list(sizes.image),
        scaling_factor=1.0,
    )


def build_denoiser(sizes: DiffusionSizes) -> Any:
    """Return a `UNet2DConditionModel`. Its sample size makes `DiffusionSizes.image` the default size of a pipeline."""
    reading = len(sizes.denoiser) - 1
    return UNet2DConditionModel(
        sample_size=list(sizes.latent),
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.denoiser,
        down_block_types=(*("CrossAttnDownBlock2D",) * reading, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * reading),
        layers_per_block=sizes.layers,
        cross_attention_dim=sizes.text,
        attention_head_dim=4,  # diffusers takes this as the number of heads
        norm_num_groups=8,
    )


def build_text_encoder(sizes: DiffusionSizes, tokenizer: Any) -> Any:
    """Return a `CLIPTextModel` for the vocabulary of the tokenizer."""
    encoder: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.text,
            intermediate_size=2 * sizes.text,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            projection_dim=sizes.text,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # With CLIP's 0.02, all sentences start with nearly the same embedding.
    nn.init.normal_(encoder.get_input_embeddings().weight, std=0.2)
    return encoder


def build_scheduler() -> Any:
    """Return a noise schedule with zero terminal signal-to-noise ratio (Lin et al., WACV 2024) for v-prediction.

    With it, dark images can be painted. The denoiser predicts v (Salimans and Ho, ICLR 2022).
    """
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def num_parameters(model: DiffusionModel) -> dict[str, int]:
    """Return the number of parameters of each network, by its name."""
    networks = {"autoencoder": model.autoencoder, "text encoder": model.text_encoder, "denoiser": model.denoiser}
    return {name: sum(each.numel() for each in network.parameters()) for name, network in networks.items()}


def write_folder(model: DiffusionModel, folder: Path) -> None:
    """Write a `StableDiffusionPipeline` in half precision. The model itself is not changed.

    Raises:
        WriteError: the folder cannot be written.
    """
    pipeline: Any = StableDiffusionPipeline(
        vae=copy.deepcopy(model.autoencoder).half(),
        text_encoder=copy.deepcopy(model.text_encoder).half(),
        tokenizer=model.tokenizer,
        unet=copy.deepcopy(model.denoiser).half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with atomic_folder(folder) as part_folder:
        pipeline.save_pretrained(part_folder)
        for file in part_folder.rglob("*.safetensors"):
            write_sha256(file)
        # transformers loads the precision of the config, diffusers loads float32: make both float32.
        config = part_folder / "text_encoder/config.json"
        write_atomically(config, json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
        # The tokenizer files that transformers 4 reads.
        vocabulary, merges = build_vocabulary(WORDS)
        write_atomically(part_folder / "tokenizer/vocab.json", json.dumps(vocabulary) + "\n")
        lines = ["#version: 0.2", *map(" ".join, merges)]
        write_atomically(part_folder / "tokenizer/merges.txt", "\n".join(lines) + "\n")
