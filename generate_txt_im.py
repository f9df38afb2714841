"""Paint an unlabelled set of street images from a file of prompts.

    python generate_txt_im.py --input prompt_llama70b --folder sd_mine

The set lies in <output root>/stable_diffusion/<folder>. The same command again paints what is missing. See
GETTING_STARTED.md for sharing the work among processes, for the quality gate, and for painting a set again.
"""

import argparse
import dataclasses
import datetime
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from clouds.commands.entry import user_errors
from clouds.errors import UserError

logger = logging.getLogger("clouds.generate_txt_im")

DEFAULT_MODEL = "stabilityai/stable-diffusion-2"


@user_errors
def main(argv: list[str] | None = None) -> int:
    """Paint, paint again from a manifest, or tell what a set holds."""
    args = parse_arguments(argv)
    folder = set_folder(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    for noisy in ("diffusers", "transformers", "httpx", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if args.stats:
        from clouds.generation.statistics import report

        sys.stdout.write(report(folder) + "\n")
        return 0
    # A scheduler's polite end of a job is a Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return paint_again(args, folder) if args.from_manifest else paint(args, folder)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Run the same command again to go on; what is written stays.\n")
        return 130


def paint(args: argparse.Namespace, folder: Path) -> int:
    """Paint this process's share of a part."""
    from clouds.generation.dataset import GeneratedSet
    from clouds.generation.gate import Gate, GateSettings
    from clouds.generation.plan import World, blocks, world_from
    from clouds.generation.prompts import find_prompts, read_prompts
    from clouds.generation.run import Run
    from clouds.generation.similarity import ClipSimilarity

    prompts = read_prompts(find_prompts(args.input))
    settings = gate_settings(args)
    world = world_from()
    images = GeneratedSet(folder)
    images.make_folder()
    painter = load_painter(args, painting_settings(args), world.local_rank, args.batch_size)
    for place, text in painter.truncated_prompts(prompts).items():
        logger.warning(f"Prompt {place} is too long for the model, which does not see its end: {text!r}")
    gate = None
    if settings is not None:
        measured = settings.similarity is not None
        clip = ClipSimilarity(settings.clip, settings.clip_weights, device=painter.device) if measured else None
        gate = Gate(settings, clip)
    images.begin(
        {
            **dataclasses.asdict(painter.settings),
            "fingerprint": painter.fingerprint(),
            "seed": args.seed,
            "gate": dataclasses.asdict(settings) if settings is not None else None,
        },
        prompts,
        painter.licence(),
    )
    run = Run(
        target=images,
        paint=painter,
        prompts=prompts,
        seed=args.seed,
        blocks=blocks(args.part, args.num_images, args.batch_size, world),
        part=blocks(args.part, args.num_images, args.batch_size, World()),
        gate=gate,
        attempts=(settings or GateSettings()).attempts,
        duplicate_distance=settings.duplicate_distance if settings is not None else None,
        rank=world.rank,
    )
    started = time.time()
    try:
        run()
    except KeyboardInterrupt:
        finish(images, args, painter, world, started, run.written)
        raise
    finish(images, args, painter, world, started, run.written)
    return 0


def paint_again(args: argparse.Namespace, folder: Path) -> int:
    """Paint the images of a manifest once more, into another set."""
    from clouds.generation.dataset import GeneratedSet, read_description, read_manifest
    from clouds.generation.painter import PaintingSettings
    from clouds.generation.plan import World, parse_indices
    from clouds.generation.run import choose, repaint

    source = Path(args.from_manifest)
    manifest = source / "manifest.jsonl" if source.is_dir() else source
    if not manifest.is_file():
        raise UserError(
            f"There is no manifest {manifest} (--from-manifest); name a set's folder or its manifest.jsonl."
        )
    if manifest.parent.resolve() == folder.resolve():
        raise UserError(f"--from-manifest names {folder} itself; give another --folder to paint into.")
    description = read_description(manifest.parent / "dataset.json")
    settings: dict[str, Any] = description["settings"]
    rows = choose(read_manifest(manifest), parse_indices(args.images) if args.images else None)
    fields = {field.name: settings[field.name] for field in dataclasses.fields(PaintingSettings)}
    if args.model is not None:
        fields["model"] = args.model
    batch_size = args.batch_size if args.compile else max((len(row["batch"]) for row in rows), default=1)
    painter = load_painter(args, PaintingSettings(**fields), 0, batch_size)
    if painter.fingerprint() != settings["fingerprint"]:
        logger.warning(
            f"{fields['model']} is another model ({painter.fingerprint()[:12]}) than the one of {manifest} "
            f"({settings['fingerprint'][:12]}): other images will come out."
        )
    images = GeneratedSet(folder)
    images.begin(
        {**settings, **dataclasses.asdict(painter.settings), "fingerprint": painter.fingerprint()},
        description["prompts"],
        description["licence"],
    )
    started = time.time()
    other = repaint(images, painter, rows, description["prompts"], settings["seed"])
    finish(images, args, painter, World(), started, len(rows))
    logger.info(f"{len(rows) - len(other):,} of {len(rows):,} images are, bit for bit, those of the manifest.")
    for row in other[:10]:
        logger.warning(f"Another image than in the manifest: {row['file_name']}")
    return 0


def painting_settings(args: argparse.Namespace) -> Any:
    """What the command line says of how to paint; the dtype is still to be resolved."""
    from clouds.generation.painter import PaintingSettings

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


def load_painter(args: argparse.Namespace, wanted: Any, local_rank: int, batch_size: int) -> Any:
    """The pipeline on its device."""
    from clouds.generation.device import resolve_device, resolve_dtype
    from clouds.generation.painter import Painter

    device = resolve_device(args.device, local_rank)
    wanted = dataclasses.replace(wanted, dtype=resolve_dtype(wanted.dtype, device))
    return Painter(wanted, device=device, batch_size=batch_size, compile=args.compile)


def gate_settings(args: argparse.Namespace) -> Any:
    """Those of the quality gate, or None where it is off."""
    from clouds.generation.gate import GateSettings

    if not args.gate and args.min_similarity is None:
        return None
    distance = args.duplicate_distance if args.duplicate_distance >= 0 else None
    return GateSettings(
        contrast=args.min_contrast,
        similarity=args.min_similarity,
        clip=args.clip,
        clip_weights=args.clip_weights,
        duplicate_distance=distance,
        attempts=args.attempts,
    )


def finish(images: Any, args: argparse.Namespace, painter: Any, world: Any, started: float, made: int) -> None:
    """Manifest, card, the run's entry, and what there is to tell."""
    seconds = time.time() - started
    total = images.finish(
        {
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "part": args.part,
            "num_images": args.num_images,
            "rank": world.rank,
            "world_size": world.size,
            "batch_size": painter.batch_size,
            "compile": args.compile,
            "device": painter.device_name(),
            "host": socket.gethostname(),
            "versions": painter.versions(),
            "images": made,
            "seconds": round(seconds, 2),
            "peak_memory": painter.peak_memory(),
        }
    )
    logger.info(
        f"{made:,} images painted in {seconds:.1f} s ({made / seconds:.2f} images/s), peak memory "
        f"{painter.peak_memory() / 2**30:.2f} GiB; {images.folder} now has {total:,}."
    )


def set_folder(args: argparse.Namespace) -> Path:
    """Where the set lies, from `--output-root` and `--folder`."""
    name = args.folder
    if not name or name != Path(name).name or name.startswith("."):
        raise UserError(
            f"--folder {name!r} must be a plain name; the set lies in <output root>/stable_diffusion/<folder>."
        )
    root = args.output_root or os.environ.get("DETECTRON2_DATASETS") or "datasets"
    return Path(root).expanduser() / "stable_diffusion" / name


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags, checked for what needs no file to be seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--num-images", type=int, default=5000, metavar="N", help="images of this part (default 5000)")
    add("--input", default="prompt_llama70b", metavar="FILE", help="prompts, one a line: a path, or its stem")
    add("--folder", required=True, metavar="NAME", help="of the set; it becomes the data set sd_<NAME without sd_>")
    add("--part", type=int, default=0, metavar="P", help="paint images P*N to (P+1)*N-1 (default 0)")
    add("--model", metavar="NAME", help=f"hub name or local folder of a diffusers pipeline (default {DEFAULT_MODEL})")
    add("--revision", help="branch, tag or commit of the model on the hub")
    add("--scheduler", default="euler", help="euler (published), euler-a, ddim, dpm++, trailing, turbo, lcm or default")
    add("--steps", type=int, default=50, help="of denoising (default 50)")
    add("--guidance", type=float, default=7.5, help="weight of classifier-free guidance (default 7.5)")
    add("--height", type=int, help="pixels (default: the model's own, 768 of Stable Diffusion 2)")
    add("--width", type=int, help="pixels")
    add("--negative-prompt", default="", metavar="TEXT", help="what the images should not show")
    add("--batch-size", type=int, default=4, metavar="B", help="images painted at once (default 4)")
    add("--dtype", default="auto", help="fp32, fp16, bf16, or auto: fp16 on a GPU, else fp32")
    add("--seed", type=int, default=0, help="of the set (default 0)")
    add("--compile", action="store_true", help="torch.compile the denoiser: worth it for many images on a GPU")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--output-root", metavar="DIR", help="default: $DETECTRON2_DATASETS, else datasets")
    gate = parser.add_argument_group("quality gate")
    gate.add_argument("--gate", action="store_true", help="paint blank images and near-duplicates again")
    gate.add_argument(
        "--min-contrast", type=float, default=6.0, help="least spread of the luminance, of 255 (default 6)"
    )
    gate.add_argument("--min-similarity", type=float, help="least CLIP similarity to the prompt; switches the gate on")
    gate.add_argument("--clip", default="ViT-B-32", help="CLIP of the gate: open_clip name or local folder")
    gate.add_argument("--clip-weights", default="laion2b_s34b_b79k", help="its open_clip tag or file")
    gate.add_argument("--duplicate-distance", type=int, default=4, help="of 64 bits (default 4); -1: do not look")
    gate.add_argument("--attempts", type=int, default=5, help="to paint one image (default 5)")
    again = parser.add_argument_group("instead of painting a new set")
    again.add_argument("--from-manifest", metavar="PATH", help="paint the images of this manifest again, into --folder")
    again.add_argument("--images", metavar="LIST", help="only these of it, such as 3,17,40-60")
    again.add_argument("--stats", action="store_true", help="tell what the set holds, and draw its contact sheet")
    args = parser.parse_args(argv)
    for name, least in (("num_images", 1), ("part", 0), ("steps", 1), ("batch_size", 1), ("attempts", 1), ("seed", 0)):
        if (value := getattr(args, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}.")
    if args.images and not args.from_manifest:
        raise UserError("--images goes with --from-manifest; to paint fewer images give --num-images.")
    return args


if __name__ == "__main__":
    sys.exit(main())
