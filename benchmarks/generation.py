"""Speed of painting images, relative to the published loop in the same run.

    python benchmarks/generation.py [--size sd2] ...

The published loop calls the pipeline once per image. Ours paints batches, and compiled batches. The pipeline has random
weights, which paint as fast as trained ones: `small` for a CPU, `sd2` with the sizes of Stable Diffusion 2 for a GPU.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from clouds.commands.entry import user_errors
from clouds.generation.device import resolve_device, resolve_dtype
from clouds.generation.painter import Painter
from clouds.generation.plan import image_seed
from clouds.generation.settings import PaintingSettings
from clouds.utils.arguments import CommandParser, positive_int
from clouds.utils.open_clip import open_clip

PROMPT = "A photo of a busy road in the rain."
SIZES = {
    "small": {
        "unet": {
            "block_out_channels": (32, 64, 64, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "sample_size": 16,
        },
        "heads": 4,
        "vae": {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8, "sample_size": 128},
        "text": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    },
    "sd2": {
        "unet": {"block_out_channels": (320, 640, 1280, 1280), "use_linear_projection": True, "sample_size": 96},
        "heads": (5, 10, 20, 20),
        "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 768},
        "text": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    },
}


def write_pipeline(folder: Path, size: str) -> None:
    """Write a Stable Diffusion with random weights and with the tokenizer of CLIP."""
    sizes = SIZES[size]
    words = open_clip.SimpleTokenizer()
    merges = [pair for pair, _ in sorted(words.bpe_ranks.items(), key=lambda item: item[1])]
    start, end = words.encoder["<start_of_text>"], words.encoder["<end_of_text>"]
    vocabulary = {token: index for token, index in words.encoder.items() if index not in (start, end)}
    vocabulary |= {"<|startoftext|>": start, "<|endoftext|>": end}
    text = CLIPTextConfig(vocab_size=len(vocabulary), bos_token_id=start, eos_token_id=end, **sizes["text"])
    diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **sizes["vae"]
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77),
        unet=diffusers.UNet2DConditionModel(
            cross_attention_dim=text.hidden_size, attention_head_dim=sizes["heads"], **sizes["unet"]
        ),
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def images_per_second(painter: Painter, images: int, rounds: int) -> float:
    """Images per second of the fastest round, after one batch to warm up (and to compile)."""
    size = painter.batch_size
    painter([PROMPT] * size, [0] * size)
    best = 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        for first in range(0, images, size):
            seeds = [image_seed(0, index, 0) for index in range(first, min(first + size, images))]
            painter([PROMPT] * len(seeds), seeds)
        best = max(best, images / (time.perf_counter() - begin))
    return best


def published_loop(painter: Painter, images: int, rounds: int) -> float:
    """Images per second of the published loop: one call per image, no seed, PIL images; the pipeline is ours."""
    settings, best = painter.settings, 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(images):
            painter.pipeline(PROMPT, num_inference_steps=settings.steps, guidance_scale=settings.guidance).images[0]
        best = max(best, images / (time.perf_counter() - begin))
    return best


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="small", help="size of the pipeline (default: %(default)s)")
    parser.add_argument("--model", help="hub name or folder of a pipeline to measure instead")
    parser.add_argument(
        "--images", type=positive_int, default=16, help="number of images per round (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=8, help="number of images per call (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=positive_int, default=10, help="number of denoising steps (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=2, help="number of rounds; the fastest is printed (default: %(default)s)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled pipeline")
    args = parser.parse_args(argv)
    device = resolve_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            write_pipeline(Path(folder), args.size)
        settings = PaintingSettings(args.model or folder, steps=args.steps, dtype=resolve_dtype("auto", device))
        painter = Painter(settings, device=device, batch_size=args.batch_size)
        rows = [("published loop, one image per call", published_loop(painter, args.images, args.rounds))]
        rows.append((f"batches of {args.batch_size}", images_per_second(painter, args.images, args.rounds)))
        if not args.no_compile:
            painter = Painter(settings, device=device, batch_size=args.batch_size, compile=True)
            speed = images_per_second(painter, args.images, args.rounds)
            rows.append((f"batches of {args.batch_size}, compiled", speed))
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    sys.stdout.write(
        f"{args.model or args.size}, {settings.steps} steps, {settings.dtype}, {painter.device_name()}, {versions}\n"
    )
    for name, speed in rows:
        sys.stdout.write(f"{name:<36} {speed:8.3f} images/s  {speed / rows[0][1]:6.2f}x\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
