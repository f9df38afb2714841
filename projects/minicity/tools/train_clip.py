"""Train the miniature CLIP of minicity and write it as a folder that open_clip loads.

    python projects/minicity/tools/train_clip.py [--model-config FILE] [--steps N] [--scenes N] [--device cuda] ...

Interrupted, the same command goes on. At the end it measures zero-shot accuracy and writes the model card.
"""

import argparse
import json
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
    from minicity.clip.pool import Captioned
    from minicity.clip.training import Recipe

    from clouds.modeling.backbone.clip import CLIP

ROOT = Path(__file__).resolve().parents[3]
ARCHITECTURE = ROOT / "projects/minicity/configs/clip_convnext_mini.json"
TRAIN_SEED, TEST_SEED = 0, 1
TEST_SCENES = 60

logger = logging.getLogger("minicity")


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder to write (default: weights/ and the name of the config)")
    parser.add_argument(
        "--cache", type=Path, default=Path("output/minicity_clip"), help="pictures, state (default: %(default)s)"
    )
    parser.add_argument(
        "--model-config", type=Path, default=ARCHITECTURE, help="open_clip model config (default: the ConvNeXt)"
    )
    parser.add_argument("--scenes", type=int, default=10000, help="scenes to draw (default: %(default)s)")
    parser.add_argument("--crops", type=int, default=24, help="crops a scene (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12000, help="updates (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="full-size crops an update (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: %(default)s)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_counts(args, "scenes", "crops", "steps", "batch_size")
    if args.model_config.suffix != ".json" or not args.model_config.is_file():
        raise UserError(
            f"--model-config {args.model_config} is no *.json file that exists; name one such as {ARCHITECTURE}."
        )
    args.output = args.output or default_output(args.model_config)
    train(args)
    return 0


def default_output(model_config: Path) -> Path:
    """Where the repository carries the CLIP of that config, or would."""
    if model_config.resolve() == ARCHITECTURE:
        return Path("projects/minicity/weights/clip")
    return Path(f"projects/minicity/weights/{model_config.stem.removesuffix('_mini')}")


def train(args: argparse.Namespace) -> None:
    """Draw, train, write, measure."""
    import open_clip
    import torch
    from minicity.clip.pool import draw_pool
    from minicity.clip.quality import tables
    from minicity.clip.training import Recipe, train_clip
    from minicity.world.wide import WIDE_STYLES, measured_sets

    from clouds.generation.device import resolve_device
    from clouds.modeling.backbone.clip import CLIP, load_open_clip

    args.device = resolve_device(args.device)
    torch.manual_seed(TRAIN_SEED)
    model = load_open_clip(str(args.model_config)).to(args.device)
    tokenize = open_clip.get_tokenizer(args.model_config.stem)
    scenes, crops = draw_pool(args.cache / "pool", WIDE_STYLES, TRAIN_SEED, args.scenes, args.crops, args.workers)
    logger.info(f"{len(scenes)} scenes, {len(crops)} crops, {len(set(crops.captions))} different captions of crops")
    recipe = Recipe(steps=args.steps, batch_size=args.batch_size, warmup=min(100, args.steps))
    seconds = train_clip(model, tokenize, scenes, crops, recipe, args.cache / f"{args.model_config.stem}.pt")
    write_folder(model, args.model_config, args.output)

    # As it will be used: read back from the folder, in half precision.
    clip = CLIP.from_folder(args.output)
    scores = {}
    for name, styles in measured_sets().items():
        stem = name.split(" ", maxsplit=1)[0]
        _, held_out = draw_pool(args.cache / f"test_{stem}", styles, TEST_SEED, TEST_SCENES, args.crops, args.workers)
        scores[name] = zero_shot(clip, held_out)
        logger.info(f"{name}: {100 * sum(scores[name][1].values()) / len(scores[name][1]):.1f} %")
    card = [*model_card(model, args, recipe, seconds, len(crops), scores), "", *tables(clip, TEST_SCENES, TEST_SEED)]
    (args.output / "README.md").write_text("\n".join(card) + "\n")
    logger.info(f"Written to {args.output}")


def write_folder(model: Any, architecture: Path, folder: Path) -> None:
    """``open_clip_config.json`` and fp16 ``open_clip_model.safetensors``."""
    from minicity.clip.training import CLIP_MEAN, CLIP_STD
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_cfg": json.loads(architecture.read_text()),
        "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bilinear", "resize_mode": "shortest"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=4) + "\n")
    weights = {name: value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def zero_shot(clip: "CLIP", crops: "Captioned") -> tuple[float, dict[str, float]]:
    """Accuracy 0..1 over all crops, and for each class that is there, with the text classifier of segmentation."""
    import torch
    from minicity.clip.quality import predict_classes

    from clouds.data.classes import CITYSCAPES_CLASSES, short_name

    classifier = clip.text_classifier(CITYSCAPES_CLASSES)

    def encode_image(images: torch.Tensor) -> torch.Tensor:
        return clip.clip_model.encode_image(images, normalize=True)

    found = predict_classes(encode_image, classifier.embeddings, classifier.names_per_class, crops.images)
    right = found == crops.labels
    each = {
        short_name(words): float(right[crops.labels == number].mean())
        for number, words in enumerate(CITYSCAPES_CLASSES)
        if (crops.labels == number).any()
    }
    return float(right.mean()), each


def model_card(
    model: Any,
    args: argparse.Namespace,
    recipe: "Recipe",
    seconds: float,
    num_crops: int,
    scores: dict[str, tuple[float, dict[str, float]]],
) -> list[str]:
    """Markdown: what it is, what it was trained on, how long, how good on crops."""
    import torch
    from minicity.clip.pool import CROP, KEPT

    from clouds.engine.record import code_version

    vision = json.loads(args.model_config.read_text())["vision_cfg"]
    kind = "ConvNeXt" if "timm_model_name" in vision else "ResNet (OpenAI's ModifiedResNet)"
    sizes = {
        "image tower": sum(p.numel() for p in model.visual.parameters()) / 1e6,
        "text tower": sum(p.numel() for n, p in model.named_parameters() if not n.startswith("visual.")) / 1e6,
    }
    other = f"--model-config projects/minicity/configs/{args.model_config.name} --output weights/{args.output.name} "
    names = list(dict.fromkeys(name for _, each in scores.values() for name in each))
    lines = [
        f"# {args.output.name}",
        "",
        f"A miniature CLIP for the drawn world of minicity, with a {kind} image tower: "
        + ", ".join(f"{what} {size:.1f} M parameters" for what, size in sizes.items())
        + ", fp16, in the layout of open_clip. It knows drawn streets and nothing else; it is for demonstrations and",
        "tests of CLOUDS. Licence: Apache-2.0, as the code that drew its pictures and trained it.",
        "",
        "```python",
        f'model = open_clip.create_model("local-dir:weights/{args.output.name}")',
        "```",
        "",
        "## Training",
        "",
        f"`python projects/minicity/tools/train_clip.py {other if args.model_config.resolve() != ARCHITECTURE else ''}"
        f"--scenes {args.scenes} --crops {args.crops} --steps {args.steps} --batch-size {args.batch_size}`",
        "",
        f"{args.scenes} scenes at {KEPT[0]} x {KEPT[1]} and {num_crops} crops at {CROP} x {CROP} with captions, drawn",
        "from the styles of `projects/minicity/minicity/world/wide.py`: never from a validation domain, whose cameras and weather they",
        f"keep out of (a test holds that). {args.steps} updates. Two of three show {recipe.streets} streets, and a",
        "reader that is no part of the model reads their captioned things out of the tower's maps; the others show",
        f"{args.batch_size} crops, or four times as many at half the size. Most are contrasted with the names of",
        "everything, some with the captions beside them: see `projects/minicity/minicity/clip/training.py`.",
        f"It took {seconds / 60:.0f} minutes on {machine(args.device)}",
        f"(torch {torch.__version__}, Python {platform.python_version()}, commit {code_version()}).",
        "",
        "## Zero-shot accuracy on captioned crops",
        "",
        f"Crops of {TEST_SCENES} new scenes a row, 19 classes, the templates and synonyms of segmentation, in %.",
        "",
        "| | " + " | ".join(["all crops", "mean of classes", *names]) + " |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for name, (accuracy, each) in scores.items():
        values = [accuracy, sum(each.values()) / len(each), *(each.get(other, float("nan")) for other in names)]
        lines.append(f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
