"""Text-to-image pipelines of a few thousand weights and a tiny CLIP, written by the libraries' own functions."""

import json
from pathlib import Path

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIZE = 32  # default size of an image in pixels
WORDS = ("a", "busy", "street", "in", "rain", "at", "night", "with", "bus", "snow", "fog", "people", "cars", "sun")
LENGTH = 16  # tokens that the text encoder sees, start and end included
CLIP_SIZES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tokenizer() -> CLIPTokenizer:
    """Tokenizer in which a word of `WORDS` is one or two tokens and every other ASCII letter is one."""
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
    """Autoencoder whose latents are four times smaller than the image: 8 for 32 pixels."""
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
    """Write a Stable Diffusion with random weights and a scheduler that is not Euler's."""
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
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\nA model for tests.\n")
    return folder


def write_sdxl(folder: Path) -> Path:
    """Write an SDXL with random weights: two tokenizers, two text encoders, time ids."""
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
    """Safety checker that rejects every image, and its feature extractor."""
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


def write_clip(folder: Path) -> Path:
    """Write a tiny CLIP with random weights in open_clip's folder format."""
    folder.mkdir(parents=True)
    sizes = folder / "tiny.json"
    sizes.write_text(json.dumps(CLIP_SIZES))
    open_clip.add_model_config(sizes)
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny").state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_SIZES, "preprocess_cfg": {}}))
    return folder
