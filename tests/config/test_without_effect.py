"""Values on the command line that cannot have an effect are named in one line of the log."""

import logging

import pytest

from clouds.config import load_config, relations
from tests.config.keys import KNOWN

JOINT = ("MODEL.CLOUDS.SAM.MINIBATCH", "True", "MODEL.CLOUDS.SAM.ENABLED", "True")


def logged(caplog, *opts, file=None):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load_config(file, opts)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("SOLVER.MOMENTUM", "0.5", ("SOLVER.OPTIMIZER", "SGD")),
        ("SOLVER.POLY_LR_POWER", "2", ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR")),
        ("DATALOADER.RARE_CLASS.TEMPERATURE", "1", ("DATALOADER.SAMPLER_TRAIN", "RareClassSampler")),
        ("DATASETS.TARGET_FACTOR", "2", ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler")),
        ("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA", "0.1", ("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE", "True")),
        ("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_BETA", "0.1", ("MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_EMA", "True", *JOINT)),
        ("MODEL.CLOUDS.SAM.TYPE", "vit_b", ("MODEL.CLOUDS.SAM.MOBILE", "False", *JOINT)),
        ("MODEL.CLOUDS.SAM.SCORE_THRESHOLD", "0.3", ("MODEL.CLOUDS.SAM.PROMPTS", "text", *JOINT)),
        ("MODEL.CLOUDS.SAM.EROSION_SIZE", "5", ("MODEL.CLOUDS.SAM.EROSION", "True", *JOINT)),
        ("MODEL.CLOUDS.SAM.CACHE_SIZE", "5", ("MODEL.CLOUDS.SAM.CACHE_DIR", "cache", *JOINT)),
        ("MODEL.CLOUDS.SAM.ENABLED", "True", ("MODEL.CLOUDS.SAM.MINIBATCH", "True")),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", "1", ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm")),
        ("SOLVER.AMP.DTYPE", "bfloat16", ("TEST.AMP", "True")),
        ("MODEL.ADAPTER.RANK", "4", ("MODEL.ADAPTER.NAME", "SoMA")),
        ("MODEL.ADAPTER.ALPHA", "4", ("MODEL.ADAPTER.NAME", "LoRA")),
        ("MODEL.ADAPTER.TOKENS", "4", ("MODEL.ADAPTER.NAME", "Rein")),
        ("SOLVER.ADAPTER_DECAY", "cosine", ("MODEL.ADAPTER.NAME", "Mine")),
        ("TEST.STRIDE", "5", ("TEST.WINDOW", "5")),
        ("TEST.AUG.SCALES", "(0.5,)", ("TEST.AUG.ENABLED", "True")),
        ("WANDB.NAME", "mine", ("WANDB.PROJECT", "ours")),
        ("CUDNN_BENCHMARK", "True", ("INPUT.CROP.ENABLED", "True")),
        ("MODEL.BACKBONE.TIMM.PATCH_SIZE", "8", ("MODEL.BACKBONE.NAME", "TimmTower")),
        ("MODEL.BACKBONE.CHECKPOINTING", "True", ("MODEL.BACKBONE.NAME", "TrainableCLIP")),
        ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "0.75", ("INPUT.CROP.ENABLED", "True")),
    ],
)
def test_named_until_it_has_an_effect(caplog, key, value, remedy):
    off = ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "INPUT.CROP.ENABLED", "False")
    [line] = logged(caplog, *off, key, value)
    assert line.startswith(f"Config keys on the command line that have no effect in this config: {key} (")
    assert line.count(";") == 0
    assert logged(caplog, *off, key, value, *remedy) == []


def test_other_keys_are_not_named(caplog, tmp_path):
    assert logged(caplog, "SOLVER.GAMMA", "0.5", "SOLVER.BASE_LR", "1", "SOLVER.WARMUP_FACTOR", "0.5") == []
    assert logged(caplog, "MODEL.CLOUDS.SAM.ENABLED", "False", "WANDB.NAME", "", "MODEL.CLOUDS.PANEL_PERIOD", "0") == []
    (tmp_path / "a.yaml").write_text("SOLVER: {MOMENTUM: 0.5}\n")  # as a base of several configs may have it
    assert logged(caplog, file=tmp_path / "a.yaml") == []


def test_the_keys_of_clip_have_no_effect_on_a_tower_of_timm(caplog):
    [line] = logged(caplog, "MODEL.BACKBONE.NAME", "TimmTower", "MODEL.CLOUDS.CLIP_MODEL_NAME", "RN50")
    assert line.endswith("MODEL.CLOUDS.CLIP_MODEL_NAME (MODEL.BACKBONE.NAME is TimmTower)")


def test_clip_with_its_own_weights(caplog, tmp_path):
    weights = ("MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", "nonsense")
    [line] = logged(caplog, "MODEL.CLOUDS.CLIP_MODEL_NAME", str(tmp_path), *weights)
    assert line.endswith("CLIP_PRETRAINED_WEIGHTS (MODEL.CLOUDS.CLIP_MODEL_NAME has its own weights)")
    assert logged(caplog, "MODEL.CLOUDS.CLIP_MODEL_NAME", "RN50", *weights) == []


def test_several_and_ignored_keys_are_one_line_each(caplog, tmp_path):
    (tmp_path / "a.yaml").write_text("INPUT: {FORMAT: BGR, MIN_SCALE: 1}\n")
    opts = ("GLOBAL.HACK", "1", "INPUT.RANDOM_FLIP", "none", "SOLVER.MOMENTUM", "0.5", "WANDB.NAME", "a")
    ignored, unused = logged(caplog, *opts, file=tmp_path / "a.yaml")
    assert ignored == (
        "Config keys that are not used and were ignored: INPUT.FORMAT, INPUT.MIN_SCALE, GLOBAL.*, "
        "INPUT.RANDOM_FLIP (use INPUT.FLIP)"
    )
    assert "SOLVER.MOMENTUM (SOLVER.OPTIMIZER is not SGD); WANDB.NAME (WANDB.PROJECT is empty)" in unused


def test_the_table_names_keys_that_exist():
    opts = ["INPUT.COLOR_AUG_SSD", "False", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    named = set()
    for scheduler in ("WarmupPolyLR", "WarmupMultiStepLR"):
        named |= set(relations._reasons(load_config(None, [*opts, "SOLVER.LR_SCHEDULER_NAME", scheduler])))
    assert len(named) > 30
    assert not [name for name in named if not any(f"{key}.".startswith(f"{name}.") for key in KNOWN)]


@pytest.mark.parametrize(
    ("adapter", "key", "value"),
    [
        ("SoMA", "MODEL.ADAPTER.ALPHA", "8"),
        ("Rein", "MODEL.ADAPTER.PATTERNS", "('a',)"),
        ("LoRA", "MODEL.ADAPTER.LINK_QUERIES", "True"),
        ("LoRA", "SOLVER.BACKBONE_MULTIPLIER", "0.5"),
    ],
)
def test_keys_of_another_adapter(caplog, adapter, key, value):
    [line] = logged(caplog, "MODEL.ADAPTER.NAME", adapter, key, value)
    assert f"no effect in this config: {key} (" in line
