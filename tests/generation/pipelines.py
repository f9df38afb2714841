"""Text-to-image pipelines of a few thousand weights, written by diffusers' and transformers' own save_pretrained."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIZE = 32  # of an image that nobody asked a size for
WORDS = ("a", "busy", "street", "in", "rain", "at", "night", "with", "bus", "snow", "fog", "people", "cars", "sun")
LENGTH = 16  # tokens that the text encoder sees, its first and last included


def tokenizer() -> CLIPTokenizer:
    """A word of the small vocabulary is a token or two, any other ASCII letter is one."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merged = parts[0] + parts[1]
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
                tokens.append(merged)
            parts = [merged, *parts[2:]]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def text_config(projection: int = 16) -> CLIPTextConfig:
    words = tokenizer()
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=projection,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def autoencoder() -> AutoencoderKL:
    """Four times smaller than the image, so that 32 pixels are 8."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
    )


def unet(**settings: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        **settings,
    )


def write_stable_diffusion(folder: Path, *, safety_checker: bool = False, seed: int = 0) -> Path:
    """A Stable Diffusion of random weights; its scheduler is not Euler's."""
    torch.manual_seed(seed)
    checker, extractor = _safety_checker() if safety_checker else (None, None)
    StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=unet(cross_attention_dim=16),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=checker,
        feature_extractor=extractor,
        requires_safety_checker=safety_checker,
    ).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\nA model of tests.\n")
    return folder


def write_sdxl(folder: Path) -> Path:
    """An SDXL of random weights: two tokenizers, two text encoders, time ids."""
    torch.manual_seed(1)
    StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _safety_checker() -> tuple[object, object]:
    """One that takes offence at everything."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=text_config().to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    )
    checker.concept_embeds_weights.data.fill_(-10.0)
    return checker, CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)
