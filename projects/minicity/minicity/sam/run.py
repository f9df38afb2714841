"""Draws the training data of the miniature SAM, trains it, writes and measures it, and writes its card."""

import logging
from pathlib import Path
from typing import Any

import torch

from clouds.config import get_config
from clouds.generation.device import resolve_device
from clouds.self_training.sam import build_sam
from clouds.self_training.sam.base import PointSam
from clouds.self_training.sam.frame import Frame
from clouds.self_training.sam.segment_anything import SegmentAnything
from clouds.self_training.sam.segment_anything_folder import (
    SamArchitecture,
    build_network,
    read_architecture,
    save_folder,
)
from minicity.cards import command_line, environment_of, write_card
from minicity.sam.evaluation import MIN_AREAS, MaskScore, measure
from minicity.sam.pool import draw_labeled_pool
from minicity.sam.prompts import VIEW
from minicity.sam.training import SamTraining, align_attention, train_sam
from minicity.world.wide import EVALUATION_STYLES, WIDE_STYLES

TRAIN_SEED, TEST_SEED = 0, 1
TEST_SCENES = 40
COMPARED_SCENES = 8
COMPARED_SIZE = 512

Scores = dict[tuple[str, int], MaskScore]

logger = logging.getLogger(__name__)


def miniature_sizes() -> SamArchitecture:
    """Return the sizes of the SAM in the repository."""
    return SamArchitecture(
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


def run(
    *,
    output: Path,
    cache: Path,
    sizes: Path | None,
    scenes: int,
    steps: int,
    views: int,
    prompts: int,
    workers: int,
    device: str,
    bfloat16: bool,
    compare: Path,
) -> None:
    """Train a SAM and write it, with its card, as a folder for `MODEL.CLOUDS.SAM.TYPE` segment_anything.

    Args:
        output: folder to write.
        cache: folder of drawn scenes and saved states.
        sizes: `segment_anything.json` of another network; default `miniature_sizes`.
        scenes: number of training scenes.
        steps: number of updates.
        views: number of views per update.
        prompts: number of prompts per view.
        workers: number of processes that draw scenes.
        device: cpu, cuda or auto.
        bfloat16: whether the image encoder computes in bfloat16.
        compare: weights of MobileSAM, measured as well if the file exists.

    Raises:
        UserError: the device does not exist, `sizes` describes no SAM, the saved state belongs to another training, or
            a loss is not finite.
    """
    flags = {"sizes": sizes, "scenes": scenes, "steps": steps, "views": views, "prompts": prompts, "bfloat16": bfloat16}
    device = resolve_device(device)
    architecture = read_architecture(sizes) if sizes else miniature_sizes()
    side = architecture.image_size
    torch.manual_seed(TRAIN_SEED)
    sam = SegmentAnything(build_network(architecture), name="minicity", frame=Frame(side), device=device)
    align_attention(sam.network)
    settings = SamTraining(steps=steps, views=views, prompts=prompts, warmup=min(100, steps), bfloat16=bfloat16)
    pool = draw_labeled_pool(cache / "pool", WIDE_STYLES, TRAIN_SEED, scenes, workers)
    seconds = train_sam(sam, pool, settings, cache / "state.pt")
    del pool
    save_folder(sam.network, architecture, output)
    write_card(
        output,
        "sam.md.jinja",
        library="segment-anything",
        task="mask-generation",
        parameters=sum(p.numel() for p in sam.network.parameters()),
        image_size=side,
        mask_side=4 * side // architecture.vit_patch_size,  # the decoder upscales the embedding by 4
        command=command_line("train_sam.py", flags),
        num_scenes=scenes,
        settings=settings,
        view=VIEW,
        seconds=seconds,
        environment=environment_of(device),
        **_measure(output, side, compare, cache, workers, device),
    )
    logger.info("Written to %s", output)


def _measure(folder: Path, side: int, mobile_sam: Path, cache: Path, workers: int, device: str) -> dict[str, Any]:
    """Measure the SAM of a folder, and MobileSAM if its weights exist; return the values of the card's tables."""
    ours = _load(device, TYPE="segment_anything", WEIGHTS=str(folder), IMAGE_SIZE=side)
    scores = _scores(ours, cache, workers, TEST_SCENES)
    compared = {}
    if mobile_sam.is_file():
        theirs = _load(device, MOBILE=True, WEIGHTS=str(mobile_sam), IMAGE_SIZE=COMPARED_SIZE)
        compared = {
            f"this model, {side} pixels": _scores(ours, cache, workers, COMPARED_SCENES),
            f"MobileSAM, {COMPARED_SIZE} pixels": _scores(theirs, cache, workers, COMPARED_SCENES),
        }
    return {
        "num_test_scenes": TEST_SCENES,
        "min_areas": MIN_AREAS,
        "scores": scores,
        "num_compared_scenes": COMPARED_SCENES,
        "compared": compared,
    }


def _load(device: str, **settings: Any) -> PointSam:
    """Build the SAM with these keys of `MODEL.CLOUDS.SAM`."""
    cfg = get_config()
    for key, value in {"MOBILE": False, "CACHE_DIR": "", **settings}.items():
        cfg.MODEL.CLOUDS.SAM[key] = value
    sam = build_sam(cfg, device)
    assert isinstance(sam, PointSam)  # without a cache
    return sam


def _scores(sam: PointSam, cache: Path, workers: int, num_scenes: int) -> dict[str, Scores]:
    """Measure a SAM on new scenes of each of `EVALUATION_STYLES`."""
    scores = {}
    for name, styles in EVALUATION_STYLES.items():
        scenes = draw_labeled_pool(cache / f"test_{name}", styles, TEST_SEED, num_scenes, workers)
        scores[name] = measure(sam, scenes)
        logger.info("%s: %s", name, ", ".join(f"{100 * score.chosen:.1f}" for score in scores[name].values()))
    return scores
