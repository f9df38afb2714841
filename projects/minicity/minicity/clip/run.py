"""Draws the training data of the miniature CLIP, trains it, writes and measures it, and writes its card."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from clouds.errors import UserError
from clouds.generation.device import resolve_device
from clouds.modeling.backbone.clip import CLIP
from clouds.modeling.backbone.open_clip_models import load_open_clip
from clouds.utils.atomic import make_folder, write_atomically
from clouds.utils.hashing import write_sha256
from clouds.utils.json_files import read_json
from clouds.utils.open_clip import open_clip
from minicity.cards import command_line, environment_of, render, write_card
from minicity.clip.evaluation import CropAccuracy, crop_accuracy, measure_scenes
from minicity.clip.pool import CROP_SIZE, STORED_SIZE, draw_pool
from minicity.clip.regions import VIEW
from minicity.clip.training import ClipTraining, initialize_text_tower, train_clip
from minicity.paths import shown
from minicity.training.towers import Towers, ViTClip, has_vit
from minicity.world.pool import SCENE
from minicity.world.wide import EVALUATION_STYLES, WIDE_STYLES

TRAIN_SEED, TEST_SEED = 0, 1
TEST_SCENES = 60

logger = logging.getLogger(__name__)

_REMEDY = "give a model config of open_clip"


def run(
    *,
    output: Path,
    cache: Path,
    model_config: Path,
    scenes: int,
    crops: int,
    steps: int,
    batch_size: int,
    bfloat16: bool,
    teacher: Path | None,
    workers: int,
    device: str,
) -> None:
    """Train a CLIP and write it, with its card, as a folder that open_clip loads; if it has a ViT, the ViT for timm.

    Args:
        output: folder to write.
        cache: folder of drawn scenes and saved states.
        model_config: JSON model config of open_clip.
        scenes: number of training scenes.
        crops: number of crops per scene.
        steps: number of updates.
        batch_size: number of full-size crops per update.
        bfloat16: whether the image tower computes in bfloat16.
        teacher: folder of a trained CLIP in open_clip's layout, whose feature maps the image tower learns to predict.
        workers: number of processes that draw scenes.
        device: cpu, cuda or auto.

    Raises:
        UserError: the device does not exist, the saved state belongs to another training, or a loss is not finite.
    """
    flags = {
        "model_config": model_config,
        "output": output,
        "scenes": scenes,
        "crops": crops,
        "steps": steps,
        "batch_size": batch_size,
        "bfloat16": bfloat16,
        "teacher": teacher,
    }
    device = resolve_device(device)
    torch.manual_seed(TRAIN_SEED)
    model: Any = load_open_clip(str(model_config)).to(device)
    tokenize = open_clip.get_tokenizer(model_config.stem)
    towers = CLIP.from_folder(teacher).to(device) if teacher else None
    try:
        initialize_text_tower(model, towers)
    except ValueError as error:
        raise UserError(f"--teacher {teacher} does not fit --model-config {model_config}: {error}.") from error
    whole, cropped = draw_pool(cache / "pool", WIDE_STYLES, TRAIN_SEED, scenes, crops, workers)
    logger.info("%d scenes, %d crops, %d different captions of crops", scenes, len(cropped), len(set(cropped.captions)))
    settings = ClipTraining(steps=steps, batch_size=batch_size, warmup=min(100, steps), bfloat16=bfloat16)
    seconds = train_clip(model, tokenize, whole, cropped, settings, cache / f"{model_config.stem}.pt", towers)
    vision = read_json(model_config, dict, _REMEDY)["vision_cfg"]
    round_to_half(model)
    vit = has_vit(model)
    if vit:
        write_vit(model, Path(vision["timm_model_name"].removeprefix("local-dir:")), output)
    else:
        write_folder(model, model_config, output)

    kind = "ConvNeXt" if "timm_model_name" in vision else "ResNet (ModifiedResNet of CLIP)"
    write_card(
        output,
        "clip.md.jinja",
        library="timm" if vit else "open_clip",
        task="image-feature-extraction" if vit else "zero-shot-image-classification",
        tower="ViT (of DINOv3's architecture)" if vit else kind,
        is_vit=vit,
        image_parameters=sum(p.numel() for p in model.visual.parameters()),
        text_parameters=sum(p.numel() for name, p in model.named_parameters() if not name.startswith("visual.")),
        command=command_line("train_clip.py", flags),
        num_scenes=scenes,
        num_crops=len(cropped),
        stored_size=STORED_SIZE,
        crop_size=CROP_SIZE,
        settings=settings,
        seconds=seconds,
        teacher=teacher and shown(teacher),
        environment=environment_of(device),
        **_measure(
            ViTClip(clip_model=model, tokenize=tokenize) if vit else CLIP.from_folder(output), crops, cache, workers
        ),
    )
    logger.info("Written to %s", output)


def _measure(clip: Towers, crops_per_scene: int, cache: Path, workers: int) -> dict[str, Any]:
    """Measure a CLIP on crops and on whole scenes; return the values of the card's tables."""
    accuracies: dict[str, CropAccuracy] = {}
    for name, styles in EVALUATION_STYLES.items():
        _, crops = draw_pool(cache / f"test_{name}", styles, TEST_SEED, TEST_SCENES, crops_per_scene, workers)
        accuracies[name] = crop_accuracy(clip, crops)
        logger.info("%s: %.1f %%", name, 100 * accuracies[name].mean)
    return {
        "classes": list(dict.fromkeys(name for row in accuracies.values() for name in row.classes)),
        "crops": accuracies,
        "nan": math.nan,
        **scene_values(clip, TEST_SCENES, TEST_SEED),
    }


def scene_tables(folder: Path, num_scenes: int) -> str:
    """Measure a CLIP on new scenes.

    Args:
        folder: folder in open_clip's layout.
        num_scenes: number of scenes per row.

    Returns:
        Two tables in Markdown, retrieval and classes of pixels, with a row for each of `EVALUATION_STYLES`.
    """
    return render("clip_scenes.md.jinja", **scene_values(CLIP.from_folder(folder), num_scenes, TEST_SEED))


def scene_values(clip: Towers, num_scenes: int, seed: int) -> dict[str, Any]:
    """Measure a CLIP on new scenes and return the values of the template `clip_scenes.md.jinja`."""
    scores = {name: measure_scenes(clip, styles, num_scenes, seed) for name, styles in EVALUATION_STYLES.items()}
    return {"scenes": scores, "num_test_scenes": num_scenes, "view": VIEW, "size": SCENE}


def write_folder(model: Any, model_config: Path, folder: Path) -> None:
    """Write an open_clip model as `open_clip_config.json` and `open_clip_model.safetensors` with its record, in fp16.

    Raises:
        WriteError: the folder cannot be written.
    """
    make_folder(folder)
    config = {
        "model_cfg": read_json(model_config, dict, _REMEDY),
        "preprocess_cfg": {
            "mean": open_clip.OPENAI_DATASET_MEAN,
            "std": open_clip.OPENAI_DATASET_STD,
            "interpolation": "bilinear",
            "resize_mode": "shortest",
        },
    }
    write_atomically(folder / "open_clip_config.json", json.dumps(config, indent=4) + "\n")
    _write_weights(model, folder / "open_clip_model.safetensors")


def write_vit(model: Any, architecture: Path, folder: Path) -> None:
    """Write the image tower of a model, a ViT, in timm's layout: `config.json`, `model.safetensors` with its record.

    Args:
        model: open_clip model.
        architecture: folder with the `config.json` that the tower was built from.
        folder: folder to write.

    Raises:
        WriteError: the folder cannot be written.
    """
    make_folder(folder)
    write_atomically(folder / "config.json", (architecture / "config.json").read_text(encoding="utf-8"))
    _write_weights(model.visual.trunk, folder / "model.safetensors")


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round the weights in place to the values that fp16 files hold, so that what is measured is what is stored."""
    for value in model.state_dict().values():
        value.copy_(value.half())


def _write_weights(model: nn.Module, file: Path) -> None:
    """Write the weights of a model in fp16, with their record."""
    weights = {name: value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(file, save(weights))
    write_sha256(file)
