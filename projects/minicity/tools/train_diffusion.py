"""Train the miniature Stable Diffusion of minicity and write it as a folder that diffusers loads.

    python projects/minicity/tools/train_diffusion.py [--output projects/minicity/weights/diffusion] [--denoiser-steps N] [--device cuda]

Interrupted, the same command goes on; from the first saved step of the denoiser on there is a folder to paint with. At
the end it measures how well prompts steer the pictures, draws a sheet of them and writes the model card.
"""

import argparse
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minicity.tool import check_counts, machine

from clouds.commands.entry import user_errors

if TYPE_CHECKING:
    from minicity.diffusion.model import Parts, Sizes
    from minicity.diffusion.pool import Captioned

ROOT = Path(__file__).resolve().parents[3]
TRAIN_SEED, TEST_SEED = 0, 1
TEST_SCENES, LOOKED_AT = 200, 2000
IMAGES_PER_PROMPT = 3
STEPS, GUIDANCE = 25, 3.0

logger = logging.getLogger("minicity")


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(args)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    default = "(default: %(default)s)"
    add("--output", type=Path, default=Path("projects/minicity/weights/diffusion"), help=f"folder to write {default}")
    add("--cache", type=Path, default=Path("output/minicity_diffusion"), help=f"pictures, state {default}")
    add("--scenes", type=int, default=10000, help=f"scenes to draw {default}")
    add("--autoencoder-steps", type=int, default=5200, help=f"updates {default}")
    add("--autoencoder-batch", type=int, default=4, help=f"pictures an update {default}")
    add("--denoiser-steps", type=int, default=4500, help=f"updates {default}")
    add("--denoiser-batch", type=int, default=64, help=f"latents an update {default}")
    add(
        "--clip",
        type=Path,
        default=ROOT / "projects/minicity/weights/clip",
        help="of the feature loss and of the measurement; a folder",
    )
    add(
        "--prompts",
        type=Path,
        default=ROOT / "projects/minicity/configs/prompts.txt",
        help="of the measurement, one a line",
    )
    add("--sheet", type=Path, help="picture to draw of what it paints, such as projects/minicity/docs/generated.png")
    add("--workers", type=int, default=2, help=f"processes that draw {default}")
    add("--half", action="store_true", help="compute in bfloat16 where that is safe; some processors are faster so")
    add("--device", default="cpu", help=f"cpu, cuda or auto {default}")
    args = parser.parse_args(argv)
    check_counts(args, "scenes", "autoencoder_steps", "autoencoder_batch", "denoiser_steps", "denoiser_batch")
    return args


def train(args: argparse.Namespace, sizes: "Sizes | None" = None) -> None:
    """Draw, train, write, measure."""
    import torch
    from minicity.diffusion import training
    from minicity.diffusion.model import Sizes, build_parts, write_folder
    from minicity.diffusion.pool import draw_captioned_pool
    from minicity.diffusion.start import start_linear
    from minicity.world.wide import WIDE_STYLES

    from clouds.generation.device import resolve_device
    from clouds.generation.prompts import read_prompts
    from clouds.modeling.backbone.clip import load_open_clip

    args.device = resolve_device(args.device)
    # What is needed at the end of hours had better be there at their beginning.
    prompts = read_prompts(args.prompts)
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(TRAIN_SEED)
    parts = build_parts(sizes or Sizes())
    pool = draw_captioned_pool(args.cache / "pool", WIDE_STYLES, TRAIN_SEED, args.scenes, args.workers)
    logger.info(f"{len(pool)} scenes, {len(set(pool.captions))} different captions")
    some = pool.images[:: max(1, len(pool) // 300)]
    start_linear(parts.autoencoder, training.to_tensor(some, torch.device("cpu")))
    for network in (parts.autoencoder, parts.text_encoder, parts.denoiser):
        network.to(args.device)
    critic = training.clip_critic(load_open_clip(str(args.clip)).visual.to(args.device))
    autoencoder_recipe = training.AutoencoderRecipe(
        steps=args.autoencoder_steps, batch_size=args.autoencoder_batch, learning_rate=3e-4, half=args.half
    )
    state = args.cache / "autoencoder.pt"
    seconds = {
        "autoencoder": training.train_autoencoder(parts.autoencoder, pool.images, autoencoder_recipe, state, critic)
    }
    # Latents of another autoencoder are another task.
    state = args.cache / f"denoiser_{training.fingerprint(parts.autoencoder)}.pt"
    latents, seconds["latents"] = training.latents_of(parts.autoencoder, pool.images, args.cache, half=args.half)
    recipe = training.DenoiserRecipe(
        steps=args.denoiser_steps, batch_size=args.denoiser_batch, learning_rate=1e-3, half=args.half
    )
    averaged, seconds["text tower and denoiser"] = training.train_denoiser(
        parts, latents, pool.captions, recipe, state, lambda averaged: write_folder(averaged, args.output)
    )
    # Once more, for a training that was complete before.
    write_folder(averaged, args.output)
    lines = [*about(parts, args, seconds), *measure(args, pool, prompts)]
    (args.output / "README.md").write_text("\n".join(lines) + "\n")
    logger.info(f"Written to {args.output}")


def about(parts: "Parts", args: argparse.Namespace, seconds: dict[str, float]) -> list[str]:
    """The card's beginning: what it is, what it was trained on, how long."""
    import torch
    from minicity.diffusion.model import num_parameters
    from minicity.diffusion.pool import KEPT

    from clouds.engine.record import code_version

    networks = {"autoencoder": parts.autoencoder, "text tower": parts.text_encoder, "denoiser": parts.denoiser}
    sizes = ", ".join(f"{name} {num_parameters(network) / 1e6:.1f} M" for name, network in networks.items())
    half = " --half" if args.half else ""
    return [
        "---",
        "license: apache-2.0",
        "---",
        "",
        "# minicity Stable Diffusion",
        "",
        "A miniature Stable Diffusion that paints the drawn world of minicity from its captions, for demonstrations",
        f"and tests of CLOUDS: {sizes} parameters, fp16, in the layout of diffusers. It knows drawn streets",
        "and nothing else. Licence: Apache-2.0, as the code that drew its pictures and trained it.",
        "",
        "```sh",
        "python generate_txt_im.py --model projects/minicity/weights/diffusion --input projects/minicity/configs/prompts.txt \\",
        f"    --folder sd_mini --steps {STEPS} --guidance {GUIDANCE:g} --num-images 500",
        "```",
        "",
        f"Pictures come out at {KEPT[0]} x {KEPT[1]}. Its words are those of minicity's captions; others are spelt.",
        "",
        "## Training",
        "",
        f"`python projects/minicity/tools/train_diffusion.py --scenes {args.scenes} "
        f"--autoencoder-steps {args.autoencoder_steps} --autoencoder-batch {args.autoencoder_batch} "
        f"--denoiser-steps {args.denoiser_steps} --denoiser-batch {args.denoiser_batch}{half}`",
        "",
        f"{args.scenes} captioned scenes and their mirror images, drawn from the styles of `projects/minicity/minicity/world/wide.py`:",
        "never from a validation domain. The autoencoder learns to give back pictures and, through the frozen",
        "miniature CLIP, what can be seen in them; then text tower and denoiser learn together. One caption in ten is",
        f"left out. See `projects/minicity/minicity/diffusion/training.py`. On {machine(args.device)}",
        f"(torch {torch.__version__}, Python {platform.python_version()}, commit {code_version()}), in minutes:",
        "",
        "| " + " | ".join(seconds) + " |",
        "|" + "---|" * len(seconds),
        "| " + " | ".join(f"{value / 60:.0f}" for value in seconds.values()) + " |",
        "",
    ]


def measure(args: argparse.Namespace, pool: "Captioned", prompts: list[str]) -> list[str]:
    """The rest of the card: how good it is, read back from the folder; and the sheet."""
    import numpy as np
    from diffusers import AutoPipelineForText2Image
    from minicity.clip.quality import features
    from minicity.diffusion import quality
    from minicity.diffusion.pool import draw_captioned_pool
    from minicity.world.wide import WIDE_STYLES

    from clouds.modeling.backbone.clip import CLIP

    pipeline = AutoPipelineForText2Image.from_pretrained(args.output, local_files_only=True).to(args.device)
    clip = CLIP.from_folder(args.clip).to(args.device)
    prompts = prompts * IMAGES_PER_PROMPT
    painted = quality.paint(pipeline, prompts, range(len(prompts)), STEPS, GUIDANCE)
    drawn = draw_captioned_pool(args.cache / "test", WIDE_STYLES, TEST_SEED, TEST_SCENES, args.workers)
    psnr = quality.reconstruction_psnr(pipeline.vae, drawn.images)
    rows = {
        f"painted, {len(prompts)} pictures": quality.steering(*features(clip, painted, prompts), prompts),
        f"drawn, {len(drawn)} new scenes": quality.steering(
            *features(clip, drawn.images, drawn.captions), drawn.captions
        ),
    }
    if args.sheet:
        chosen = np.linspace(0, len(prompts) // IMAGES_PER_PROMPT - 1, min(24, len(prompts))).round().astype(int)
        picture = quality.sheet([painted[i] for i in chosen], [prompts[i] for i in chosen], 4)
        picture.quantize(256).save(args.sheet, optimize=True)
    lines = [
        "## How good it is",
        "",
        f"The autoencoder gives back new scenes with a peak signal-to-noise ratio of {psnr:.1f} dB.",
        "",
        f"Painted from `{args.prompts.name}` in {STEPS} steps with a guidance of {GUIDANCE:g}. Similarity by the",
        "miniature CLIP to the own prompt and to those of the other pictures, and the share of the others' prompts",
        "that are less similar than the own one (chance: 50 %). Drawn scenes with their captions are what can be had.",
        "",
        "| | own prompt | other prompts | own prompt wins |",
        "|---|---|---|---|",
        *(f"| {name} | {row.own:.3f} | {row.other:.3f} | {100 * row.wins:.1f} % |" for name, row in rows.items()),
        "",
        "What words do to a picture, painted / drawn (scenes of the training with the same words), all of 1: mean",
        "luminance, its deviation within the picture, colourfulness (largest minus smallest channel), warmth (red",
        "minus blue).",
        "",
        "| words | luminance | contrast | colour | warmth |",
        "|---|---|---|---|---|",
    ]
    for groups in (quality.WORDS_OF_LIGHT, quality.WORDS_OF_AIR):
        ours = quality.looks_by_words(painted, prompts, groups)
        theirs = quality.looks_by_words(pool.images[:LOOKED_AT], pool.captions[:LOOKED_AT], groups)
        for name, words in groups.items():
            cells = (f"{one:.2f} / {two:.2f}" for one, two in zip(ours[name], theirs[name], strict=True))
            lines.append(f"| {', '.join(words)} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
