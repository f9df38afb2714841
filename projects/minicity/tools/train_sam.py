"""Train the miniature SAM of minicity and write it as a folder that MODEL.CLOUDS.SAM.TYPE "segment_anything" loads.

    python projects/minicity/tools/train_sam.py [--output projects/minicity/weights/sam] [--steps N] [--scenes N] [--device cuda] ...

Interrupted, the same command goes on. At the end it measures the masks and writes the model card.
"""

import argparse
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicity.tool import check_counts, machine

from clouds.commands.entry import user_errors
from clouds.errors import UserError

if TYPE_CHECKING:
    from minicity.sam.quality import Score
    from minicity.sam.training import Recipe

    from clouds.self_training.sam import Sam
    from clouds.self_training.sam.segment_anything_folder import Sizes

    Scores = dict[tuple[str, int], Score]

TRAIN_SEED, TEST_SEED = 0, 1
TEST_SCENES = 40
COMPARED_SCENES = 8
COMPARED_SIZE = 512

logger = logging.getLogger("minicity")


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("projects/minicity/weights/sam"),
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("output/minicity_sam"), help="pictures, state (default: %(default)s)"
    )
    parser.add_argument("--sizes", type=Path, help="segment_anything.json of another network (default: built in)")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes to draw (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3200, help="updates (default: %(default)s)")
    parser.add_argument("--views", type=int, default=4, help="views of scenes an update (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=8, help="prompts a view (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: %(default)s)")
    parser.add_argument("--bfloat16", action="store_true", help="encode images in bfloat16; for processors with AMX")
    parser.add_argument(
        "--compare",
        type=Path,
        default=Path("weights/mobile_sam.pt"),
        help="MobileSAM's weights, to measure too if they are there (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_counts(args, "scenes", "steps", "views", "prompts")
    if args.sizes and not args.sizes.is_file():
        raise UserError(
            f"--sizes {args.sizes} does not exist; name one like projects/minicity/weights/sam/segment_anything.json."
        )
    train(args)
    return 0


def built_in_sizes() -> "Sizes":
    """Of the network that the repository carries."""
    from clouds.self_training.sam.segment_anything_folder import Sizes

    return Sizes(
        image_size=256,
        vit_patch_size=8,
        encoder_embed_dim=128,
        encoder_depth=5,
        encoder_num_heads=4,
        encoder_window_size=8,
        encoder_global_attn_indexes=(2, 4),
        prompt_embed_dim=64,
        mask_in_chans=16,
        decoder_depth=2,
        decoder_num_heads=4,
        decoder_mlp_dim=256,
        iou_head_hidden_dim=64,
    )


def train(args: argparse.Namespace) -> None:
    """Draw, train, write, measure."""
    import torch
    from minicity.sam.pool import draw_street_pool
    from minicity.sam.training import Recipe, start_attention, train_sam
    from minicity.world.wide import WIDE_STYLES

    from clouds.generation.device import resolve_device
    from clouds.self_training.sam.frame import Frame
    from clouds.self_training.sam.segment_anything import SegmentAnything
    from clouds.self_training.sam.segment_anything_folder import described_sam, read_sizes, save_described

    args.device = resolve_device(args.device)
    sizes = read_sizes(args.sizes) if args.sizes else built_in_sizes()
    torch.manual_seed(TRAIN_SEED)
    sam = SegmentAnything(described_sam(sizes), name="minicity", frame=Frame(sizes.image_size), device=args.device)
    start_attention(sam.network)
    streets = draw_street_pool(args.cache / "pool", WIDE_STYLES, TRAIN_SEED, args.scenes, args.workers)
    recipe = Recipe(
        steps=args.steps,
        views=args.views,
        prompts=args.prompts,
        warmup=min(100, args.steps),
        half=args.bfloat16,
    )
    seconds = train_sam(sam, streets, recipe, args.cache / "state.pt")
    del streets
    save_described(sam.network, sizes, args.output)

    # As it will be used: read back from the folder, in half precision.
    ours = from_settings(args.device, TYPE="segment_anything", WEIGHTS=str(args.output), IMAGE_SIZE=sizes.image_size)
    scores = measured(ours, args, TEST_SCENES)
    compared = {}
    if args.compare.is_file():
        theirs = from_settings(args.device, MOBILE=True, WEIGHTS=str(args.compare), IMAGE_SIZE=COMPARED_SIZE)
        compared = {
            f"this one, {sizes.image_size} pixels": measured(ours, args, COMPARED_SCENES),
            f"MobileSAM, {COMPARED_SIZE} pixels": measured(theirs, args, COMPARED_SCENES),
        }
    parameters = sum(p.numel() for p in ours.network.parameters())
    (args.output / "README.md").write_text(model_card(parameters, sizes, args, recipe, seconds, scores, compared))
    logger.info(f"Written to {args.output}")


def from_settings(device: str, **settings: Any) -> "Sam":
    """The SAM of these keys of MODEL.CLOUDS.SAM."""
    from clouds.config import get_config
    from clouds.self_training.sam import build_sam

    cfg = get_config()
    for key, value in {"MOBILE": False, **settings}.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    return build_sam(cfg, device)


def measured(sam: "Sam", args: argparse.Namespace, num_scenes: int) -> "dict[str, Scores]":
    """On new scenes of the training styles, and on those of each validation domain."""
    from minicity.sam.pool import draw_street_pool
    from minicity.sam.quality import measure
    from minicity.world.wide import measured_sets

    scores = {}
    for name, styles in measured_sets("unseen").items():
        stem = name.split(" ", maxsplit=1)[0]
        scenes = draw_street_pool(args.cache / f"test_{stem}", styles, TEST_SEED, num_scenes, args.workers)
        scores[name] = measure(sam, scenes)
        logger.info(f"{name}: {cells(scores[name])}")
    return scores


def cells(scores: "Scores") -> str:
    """A line of the table: chosen mask, and the best of the three."""
    return " | ".join(f"{100 * score.chosen:.1f} ({100 * score.best:.1f})" for score in scores.values())


def model_card(
    parameters: int,
    sizes: "Sizes",
    args: argparse.Namespace,
    recipe: "Recipe",
    seconds: float,
    scores: "dict[str, Scores]",
    compared: "dict[str, dict[str, Scores]]",
) -> str:
    """Markdown: what it is, what it was trained on, how long, how good."""
    import torch
    from minicity.sam.quality import KINDS
    from minicity.sam.regions import VIEW

    from clouds.engine.record import code_version

    mask_side = 4 * sizes.image_size // sizes.vit_patch_size  # the decoder upscales the embedding
    flags = f"--sizes {args.sizes} " if args.sizes else ""
    flags += f"--scenes {args.scenes} --steps {args.steps} --views {args.views} --prompts {args.prompts}"
    asked = next(iter(scores.values()))
    names = [f"{kind}, {count} point{'s' if count > 1 else ''}" for kind, count in asked]
    header = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    discs = " | ".join(f"{100 * score.disc:.1f}" for score in asked.values())
    lines = [
        "# minicity SAM",
        "",
        f"A miniature Segment Anything for the drawn world of minicity: {parameters / 1e6:.1f} M parameters, fp16, the",
        f"modules of segment-anything at the sizes of `segment_anything.json`. It sees {sizes.image_size} x",
        f"{sizes.image_size} pixels, the longest side of an image resized to that, and answers with three masks of",
        f"{mask_side} x {mask_side}. It knows drawn streets and points, and nothing else: no boxes, no points outside.",
        "It is for demonstrations and tests of CLOUDS. Licence: Apache-2.0, as the code that drew its pictures and",
        "trained it.",
        "",
        "```yaml",
        "MODEL:",
        "  CLOUDS:",
        f"    SAM: {{MOBILE: False, TYPE: segment_anything, WEIGHTS: {args.output}, IMAGE_SIZE: {sizes.image_size}}}",
        "```",
        "",
        "## Training",
        "",
        f"`python projects/minicity/tools/train_sam.py {flags}{' --bfloat16' * args.bfloat16}`",
        "",
        f"{args.scenes} scenes drawn from the styles of `projects/minicity/minicity/world/wide.py`: never from a validation domain,",
        f"whose cameras and weather they keep out of (a test holds that). {args.steps} updates of {args.views} views",
        f"of {VIEW[0]} x {VIEW[1]} pixels, whole scenes and windows of them; {args.prompts} prompts a view, 1 to",
        f"{recipe.most_points} points inside a thing or a connected region of a class. The losses are SAM's;",
        "a reader of classes, which is no part of the model, helps the encoder; see",
        "`projects/minicity/minicity/sam/training.py`.",
        f"It took {seconds / 60:.0f} minutes on {machine(args.device)}",
        f"(torch {torch.__version__}, Python {platform.python_version()}, commit {code_version()}).",
        "",
        "## Intersection over union",
        "",
        f"Mean over the prompts of {TEST_SCENES} new scenes a row at {VIEW[0]} x {VIEW[1]} pixels, in %: of the mask",
        "that the model predicts to be the best of its three and, in brackets, of the one that is. Regions are",
        f"connected pixels of a class, at least {KINDS['regions']} of them, the paper's share of the picture; things",
        f"have at least {KINDS['things']} pixels. The points are random pixels inside.",
        "",
        *header,
        *(f"| {name} | {cells(row)} |" for name, row in scores.items()),
        f"| for comparison, wide: a disc of the right area in the middle of the points | {discs} |",
    ]
    if compared:
        lines += ["", f"The first {COMPARED_SCENES} of these scenes, beside MobileSAM, which knows the real world:", ""]
        lines += header
        for name in scores:
            lines += [f"| {name.split(' ')[0]}: {who} | {cells(rows[name])} |" for who, rows in compared.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
