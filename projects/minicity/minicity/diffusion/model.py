"""A miniature Stable Diffusion: its words and its parts, untrained, and the folder that diffusers loads.

It has everything that the large one has, and in the same classes: an autoencoder that makes an image sixteen times
smaller, a text tower, and a denoiser that reads the text while it removes noise. What it lacks is size.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_LIST = """
a after an and at avenue bicycle bicycles building buildings bus buses busy car cars city clouds country day dirt
drizzle dusk dust early evening fence four frosty grass grey haze hazy in lamps light lights little morning motorcycle
motorcycles noon of on pedestrians people person photo picture quiet rider riders road several shower sidewalk sign
signs snapshot snow storm street sun sunset sunshine the three traffic train trains tree trees truck trucks twilight two
under view walking wall walls with without
"""
WORDS = tuple(_LIST.split())
"""Every word of the captions, and a few that people may use instead; each is one token."""

CONTEXT = 64
"""Tokens that the text tower reads, with the marks of beginning and end."""


@dataclass(frozen=True)
class Sizes:
    """How large the parts are.

    Attributes:
        image: height and width that are painted unless others are asked for.
        autoencoder: channels of its levels; each after the first halves the sides.
        latent_channels: of what the denoiser sees.
        denoiser: channels of its levels; all but the last read the text.
        layers: residual blocks of each of those levels.
        text: width of the text tower.
        text_layers: its depth.
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
        """Pixels a side of what becomes one latent."""
        return int(2 ** (len(self.autoencoder) - 1))

    @property
    def latent(self) -> tuple[int, int]:
        """Height and width of an image's latents."""
        return self.image[0] // self.factor, self.image[1] // self.factor


@dataclass(frozen=True)
class Parts:
    """The networks of diffusers and transformers, and the tokenizer."""

    autoencoder: Any
    text_encoder: Any
    tokenizer: Any
    denoiser: Any


def build_parts(sizes: Sizes) -> Parts:
    """Fresh parts; torch's global seed decides their weights."""
    tokenizer = build_tokenizer()
    return Parts(
        autoencoder=build_autoencoder(sizes),
        text_encoder=build_text_encoder(sizes, tokenizer),
        tokenizer=tokenizer,
        denoiser=build_denoiser(sizes),
    )


def build_autoencoder(sizes: Sizes) -> Any:
    """An ``AutoencoderKL``."""
    levels = len(sizes.autoencoder)
    return AutoencoderKL(
        block_out_channels=sizes.autoencoder,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=sizes.latent_channels,
        # On a CPU the backward pass of many small groups takes as long as all the rest.
        norm_num_groups=1,
        sample_size=list(sizes.image),
        scaling_factor=1.0,
    )


def build_denoiser(sizes: Sizes) -> Any:
    """A ``UNet2DConditionModel``. Its sample size makes `Sizes.image` the size that a pipeline paints by default."""
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
        # diffusers takes this for the number of heads.
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_text_encoder(sizes: Sizes, tokenizer: Any) -> Any:
    """A ``CLIPTextModel``."""
    tower: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.text,
            intermediate_size=2 * sizes.text,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=sizes.text,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # With CLIP's .02 all sentences begin as nearly the same one.
    nn.init.normal_(tower.get_input_embeddings().weight, std=0.2)
    return tower


def build_scheduler() -> Any:
    """Noise from none to nothing but noise (Lin et al., WACV 2024), so that a dark picture can come out dark.

    The denoiser predicts v (Salimans and Ho, ICLR 2022).
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


def build_tokenizer() -> Any:
    """Each of `WORDS` is one token; any other is spelt, in as few pieces of them as CLIP's merging finds."""
    vocabulary, merges = vocabulary_of(WORDS)
    make: Any = CLIPTokenizer
    return make(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def vocabulary_of(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's two tables, such that each of the words is merged into one token.

    Returns:
        Token to number; pairs of tokens that are merged, the first of them first.
    """
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        # A new pair comes last and thus undoes no word before; what the pairs before do to this word is seen here.
        while len(pieces := merge(word, merges)) > 1:
            merges[pieces[0], pieces[1]] = None
            tokens.append(pieces[0] + pieces[1])
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, list(merges)


def merge(word: str, merges: dict[tuple[str, str], None]) -> list[str]:
    """The pieces that byte-pair encoding (Sennrich et al., ACL 2016) makes of a word: first pairs first."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    for first, second in merges:
        place = 0
        while place < len(pieces) - 1:
            if (pieces[place], pieces[place + 1]) == (first, second):
                pieces[place : place + 2] = [first + second]
            place += 1
    return pieces


def num_parameters(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def write_folder(parts: Parts, folder: Path) -> None:
    """The parts as a ``StableDiffusionPipeline`` in half precision; they stay as they are.

    Raises:
        OSError: the folder cannot be written.
    """
    pipeline: Any = StableDiffusionPipeline(
        vae=copy.deepcopy(parts.autoencoder).half(),
        text_encoder=copy.deepcopy(parts.text_encoder).half(),
        tokenizer=parts.tokenizer,
        unet=copy.deepcopy(parts.denoiser).half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    # Of transformers' parts the config decides the precision unless the user does, and diffusers' are read in single.
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
    # What the tokenizers of transformers 4 read.
    vocabulary, merges = vocabulary_of(WORDS)
    (folder / "tokenizer/vocab.json").write_text(json.dumps(vocabulary) + "\n")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "tokenizer/merges.txt").write_text("\n".join(lines) + "\n")
