"""The settings: published figures, nearest keys, types, dumps. The same in both modes of the seam."""

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.config import get_config, load_config, resolve_device
from clouds.config.defaults import DEFAULTS
from clouds.d2 import CfgNode
from clouds.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


KNOWN = dict(leaves(DEFAULTS))


def value_of(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


UNSEEN = ("mapillary_val", "bdd_val", "cityscapes_val")
ADVERSE = ("acdc_night_val", "acdc_rain_val", "acdc_snow_val", "acdc_fog_val", "cityscapes_val")
STEPS, POLY = "WarmupMultiStepLR", "WarmupPolyLR"
# source: file stem, train set, height, width, test sets, iterations, rate, evaluation period, schedule, warm-up
SOURCES = {
    "gta": ("train_gta", "gta5", 1052, 1914, UNSEEN, 40000, 1e-5, 4000, STEPS, 10),
    "synthia": ("train_syn", "synthia", 760, 1280, UNSEEN, 30000, 1e-5, 1500, POLY, 0),
    "cityscapes": ("train_city", "cityscapes_train", 1024, 2048, ADVERSE, 5000, 1e-4, 500, STEPS, 10),
}
# file suffix: CLIP model, weights, embedding, ensemble only on masks that are not empty
TOWERS = {
    "": ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", 768, False),
    "_r50": ("RN50", "openai", 1024, True),
    "_r101": ("RN101", "openai", 512, True),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("tower", TOWERS)
def test_published_figures(source, tower, caplog):
    stem, train, height, width, test, iterations, rate, period, schedule, warmup = SOURCES[source]
    cfg = load_config(CONFIGS / "warmup" / source / f"{stem}{tower}.yaml")
    assert caplog.records == []  # our own files set nothing that is not read

    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((train,), test)
    assert (cfg.INPUT.INITIAL_HEIGHT, cfg.INPUT.INITIAL_WIDTH) == (height, width)
    assert (cfg.INPUT.CROP_SIZE, cfg.INPUT.SCALE_RANGE) == ((768, 768), (0.5, 2.0))
    assert cfg.INPUT.RESIZE.ENABLED
    assert cfg.INPUT.CROP.ENABLED
    assert cfg.INPUT.FLIP
    assert cfg.INPUT.COLOR_AUG_SSD
    assert (cfg.INPUT.TEST_SHORT_EDGE, cfg.TEST.PROTOCOL) == (1024, "full_resolution")

    clip = cfg.MODEL.CLOUDS
    model, weights, width, valid = TOWERS[tower]
    assert (clip.CLIP_MODEL_NAME, clip.CLIP_PRETRAINED_WEIGHTS, clip.EMBED_DIM) == (model, weights, width)
    assert (clip.ENSEMBLE_ON_VALID_MASK, clip.GEOMETRIC_ENSEMBLE) == (valid, False)
    assert (clip.GEOMETRIC_ENSEMBLE_ALPHA, clip.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)

    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.BASE_LR, cfg.TEST.EVAL_PERIOD) == (iterations, rate, period)
    assert (solver.LR_SCHEDULER_NAME, solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (schedule, warmup, 1.0)
    assert (solver.STEPS, solver.POLY_LR_POWER) == ((100000,), 0.9)
    assert (solver.IMS_PER_BATCH, solver.OPTIMIZER, solver.WEIGHT_DECAY) == (8, "ADAMW", 0.05)
    assert (solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_EMBED, solver.BACKBONE_MULTIPLIER) == (0.0, 0.0, 0.1)
    assert dict(solver.CLIP_GRADIENTS) == {
        "ENABLED": True,
        "CLIP_TYPE": "full_model",
        "CLIP_VALUE": 0.01,
        "NORM_TYPE": 2.0,
    }


# source: file stem, train set, iterations, repeat factor of generated images
JOINT = {
    "gta": ("train_jt_gta", "gta5", 40000, 2.0),
    "synthia": ("train_jt_syn", "synthia", 30000, 0.7),
    "cityscapes": ("train_jt_city", "cityscapes_train", 10000, 0.2),
}


@pytest.mark.parametrize("source", JOINT)
@pytest.mark.parametrize("tower", TOWERS)
def test_published_joint_training(source, tower, caplog):
    stem, train, iterations, factor = JOINT[source]
    warmup = load_config(CONFIGS / "warmup" / source / f"{SOURCES[source][0]}{tower}.yaml")
    cfg = load_config(CONFIGS / "joint_training" / source / f"{stem}{tower}.yaml")
    assert caplog.records == []
    changed = {
        "MODEL.WEIGHTS": f"{warmup.OUTPUT_DIR}/model_final.pth",
        "MODEL.CLOUDS.SAM.MINIBATCH": True,
        "MODEL.CLOUDS.SAM.ENABLED": True,
        "DATASETS.TRAIN": (train, "sd_llama70b_v2"),
        "DATASETS.TARGET_FACTOR": factor,
        "DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler",
        "SOLVER.MAX_ITER": iterations,
        "OUTPUT_DIR": warmup.OUTPUT_DIR.replace("warmup", "joint"),
    }
    assert {key: value_of(cfg, key) for key in KNOWN} == {key: value_of(warmup, key) for key in KNOWN} | changed
    assert (cfg.DATASETS.SOURCE_FACTOR, cfg.INPUT.PL_THRESHOLD) == (1.0, 0.0)
    clouds, sam = cfg.MODEL.CLOUDS, cfg.MODEL.CLOUDS.SAM
    assert (sam.ALPHA_EMA, clouds.ITERATION_UPDATE, clouds.GEOMETRIC_ENSEMBLE_EMA) == (0.999, 100, False)
    assert (sam.SIZE_THRESHOLD, sam.NUM_POINTS, sam.SELECTION_MODE) == (5000, 5, "random")
    assert (sam.EROSION, sam.EROSION_SIZE, sam.RM_INTERSECTION, sam.REFINEMENT) == (False, 3, True, False)
    assert (sam.MOBILE, sam.TYPE) == (True, "vit_h")


def test_every_published_recipe_has_a_folder_of_its_own():
    files = [*CONFIGS.glob("warmup/*/*.yaml"), *CONFIGS.glob("joint_training/*/*.yaml")]
    assert len({load_config(file).OUTPUT_DIR for file in files}) == len(files) == 18


def test_published_network():
    cfg = load_config(CONFIGS / "segmentation" / "clouds_config.yaml")
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS) == ("CLOUDS", "CLIP", "")
    assert cfg.MODEL.PIXEL_MEAN == [122.7709383, 116.7460125, 104.09373615]
    assert cfg.MODEL.PIXEL_STD == [68.5005327, 66.6321579, 70.32316305]
    head, former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    assert (head.NAME, head.PIXEL_DECODER_NAME, head.NUM_CLASSES) == ("CLOUDSHead", "MSDeformAttnPixelDecoder", 19)
    assert (head.TRANSFORMER_ENC_LAYERS, head.CONVS_DIM, head.MASK_DIM, head.COMMON_STRIDE) == (6, 256, 256, 4)
    assert head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES == ["res3", "res4", "res5"]
    assert (head.TRANSFORMER_ENC_DIM_FEEDFORWARD, head.NORM, head.IGNORE_VALUE) == (1024, "GN", 255)
    assert former.TRANSFORMER_DECODER_NAME == "OriginalMultiScaleMaskedTransformerDecoder"
    assert (former.NUM_OBJECT_QUERIES, former.DEC_LAYERS, former.NHEADS, former.DIM_FEEDFORWARD) == (100, 10, 8, 2048)
    assert (former.CLASS_WEIGHT, former.MASK_WEIGHT, former.DICE_WEIGHT) == (2.0, 5.0, 5.0)
    assert (former.NO_OBJECT_WEIGHT, former.DROPOUT, former.PRE_NORM) == (0.1, 0.0, False)
    assert (former.TRAIN_NUM_POINTS, former.OVERSAMPLE_RATIO, former.IMPORTANCE_SAMPLE_RATIO) == (12544, 3.0, 0.75)


def test_every_default_in_both_modes():
    cfg = get_config()
    assert {key: value_of(cfg, key) for key in KNOWN} == KNOWN
    cfg.MODEL.PIXEL_MEAN[0] = 0.0
    assert get_config().MODEL.PIXEL_MEAN == KNOWN["MODEL.PIXEL_MEAN"]


def test_every_key_from_the_command_line():
    opts = [text for key, value in KNOWN.items() for text in (key, str(value))]
    cfg = load_config(None, opts)
    assert cfg == get_config()
    assert all(type(value_of(cfg, key)) is type(value) for key, value in KNOWN.items())


def test_command_line_wins_over_the_file():
    path = CONFIGS / "warmup" / "gta" / "train_gta_r50.yaml"
    cfg = load_config(path, ["SOLVER.BASE_LR", "1", "DATASETS.TEST", "('a', 'b')", "OUTPUT_DIR", "2026", "SEED", "7"])
    assert (cfg.SOLVER.BASE_LR, type(cfg.SOLVER.BASE_LR)) == (1.0, float)
    assert cfg.DATASETS.TEST == ("a", "b")
    assert (cfg.OUTPUT_DIR, cfg.SEED, cfg.MODEL.CLOUDS.CLIP_MODEL_NAME) == ("2026", 7, "RN50")
    assert not cfg.is_frozen()


@settings(deadline=None, max_examples=40)
@given(key=st.sampled_from(sorted(KNOWN)), where=st.integers(0, 200), letter=st.sampled_from(["", "X"]))
def test_one_wrong_letter_still_finds_the_key(key, where, letter):
    section, last = key.rpartition(".")[::2]
    where %= len(last)
    misspelt = ".".join([*([section] if section else []), last[:where] + letter + last[where + 1 :]])
    if misspelt in KNOWN or misspelt == key:
        return
    with pytest.raises(UserError) as error:
        load_config(None, [misspelt, "1"])
    assert str(error.value).endswith(f"is {key}.")


def test_misspelt_in_a_file_names_that_file(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  MAX_ITR: 5\n")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nSEED: 3\n")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "top.yaml")
    assert str(error.value) == (
        f"Unknown setting SOLVER.MAX_ITR in {tmp_path / 'base.yaml'}: the nearest one that exists is SOLVER.MAX_ITER."
    )


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.MAX_ITER", "5"], "Unknown setting MODEL.MAX_ITER on the command line: .* SOLVER.MAX_ITER"),
        (["MODEL.RESNET.DEPTH", "50"], "Unknown setting MODEL.RESNET.DEPTH"),  # an ignored section, misspelt
        (["solver.base_lr", "5"], "SOLVER.BASE_LR"),
        (["SOLVER", "5"], "SOLVER on the command line is a section"),
        (["SOLVER.CLIP_GRADIENTS", "5"], "is a section"),
        (["SOLVER.MAX_ITER", "soon"], "SOLVER.MAX_ITER on the command line must be a whole number .* not 'soon'"),
        (["SOLVER.MAX_ITER", "1.5"], "whole number"),
        (["SOLVER.MAX_ITER", "True"], "whole number"),
        (["SEED", "None"], "whole number"),
        (["SOLVER.BASE_LR", "fast"], "a number"),
        (["INPUT.FLIP", "1"], "True or False"),
        (["DATASETS.TEST", "cityscapes_val"], r"a list such as \('a', 'b'\), not 'cityscapes_val'"),
        (["INPUT.CROP_SIZE", "(1, 'b')"], "each entry of INPUT.CROP_SIZE"),
        (["DATASETS.TEST", "(1,)"], "each entry of DATASETS.TEST"),
        (["VERSION", "1"], "VERSION is 1"),
        (["SEED"], "KEY VALUE pairs"),
        (["SEED", "1", "--resume"], "^--resume .* flags come first"),
        (["SEED", "1", "--num-gpus", "2"], "^--num-gpus .* flags come first"),
    ],
)
def test_command_line_errors(opts, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(None, opts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: [1, 2\n", "is not YAML"),
        ("- 1\n", "must hold sections"),
        ("_BASE_: absent.yaml\n", r"absent\.yaml, which .*file\.yaml names as its _BASE_, does not exist"),
        ("_BASE_: file.yaml\n", "is its own _BASE_"),
        ("_BASE_: 3\n", "does not exist"),
        ("SOLVER:\n  MAX_ITER: many\n", r"SOLVER\.MAX_ITER in .*file\.yaml must be a whole number"),
        ("SOLVER:\n  MAX_ITER:\n", r"must be a whole number such as 40000, not None"),
        ("SOLVER: 5\n", "is a section"),
        ("OUTPUT_DIR:\n  NAME: x\n", "Unknown setting OUTPUT_DIR.NAME"),
        ("SEED: !!python/object/apply:os.getpid []\n", "is not YAML"),
    ],
)
def test_file_errors(tmp_path, text, message):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(tmp_path / "file.yaml")
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        load_config(tmp_path / "none.yaml")


def test_bases_are_merged_in_order(tmp_path):
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER:\n  MAX_ITER: 1\n  GAMMA: 0.5\n")
    (tmp_path / "b.yaml").write_text("SOLVER:\n  MAX_ITER: 2\n  STEPS: [3, 4]\n")
    (tmp_path / "top.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSOLVER:\n  STEPS: [5]\nTEST:\n# EVAL_PERIOD: 1\n")
    cfg = load_config(tmp_path / "top.yaml")
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA, cfg.SOLVER.STEPS) == (1, 2, 0.5, (5,))
    assert cfg.TEST.EVAL_PERIOD == KNOWN["TEST.EVAL_PERIOD"]


PUBLISHED_EXTRAS = """
MODEL:
  BACKBONE: {FREEZE_AT: 0}
  RESNETS: {DEPTH: 50, STEM_TYPE: basic}
  SEM_SEG_HEAD: {LOSS_WEIGHT: 1.0}
  CLOUDS:
    OVERWRITING: True
    SAM:
      MINIBATCH : True
      ALPHA_EMA : 0.999
  MASK_FORMER: {ENC_LAYERS: 0, TRANSFORMER_IN_FEATURE: multi_scale_pixel_decoder, TEST: {SEMANTIC_ON: True}}
SOLVER: {AMP: {ENABLED: False}}
INPUT: {DATASET_MAPPER_NAME: mask_former_semantic_gta5, FORMAT: RGB, IMAGE_SIZE: 1024, MIN_SCALE: 0.1, MAX_SCALE: 2.0}
DATALOADER:
    FILTER_EMPTY_ANNOTATIONS: False
    ASPECT_RATIO_GROUPING: False
    SAMPLER_TRAIN: "WeightedTrainingSampler"
DATASETS:
  TRAIN: ("gta5", "sd_llama70b_v2",)
  TARGET_FACTOR: 2.0
  TRAIN_REPEAT_FACTOR: [[sd_llama70b_v2, 2.0], [gta5, 1.0]]
WANDB: {PROJECT: CLOUDS-V3, NAME: null}
SEED: 11
"""


def test_published_leftovers_are_ignored_with_one_line(tmp_path, caplog):
    (tmp_path / "published.yaml").write_text(PUBLISHED_EXTRAS)
    with caplog.at_level(logging.INFO):
        cfg = load_config(tmp_path / "published.yaml")
    assert (cfg.SEED, cfg.WANDB.PROJECT, cfg.WANDB.NAME) == (11, "CLOUDS-V3", "")
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TARGET_FACTOR) == (("gta5", "sd_llama70b_v2"), 2.0)
    assert (cfg.DATALOADER.SAMPLER_TRAIN, cfg.MODEL.CLOUDS.SAM.MINIBATCH) == ("WeightedTrainingSampler", True)
    (record,) = caplog.records
    named = record.getMessage().partition(": ")[2].split(", ")
    expected = """
    MODEL.BACKBONE.FREEZE_AT MODEL.RESNETS.* MODEL.SEM_SEG_HEAD.LOSS_WEIGHT MODEL.MASK_FORMER.ENC_LAYERS
    MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE MODEL.MASK_FORMER.TEST.* INPUT.DATASET_MAPPER_NAME
    INPUT.FORMAT INPUT.IMAGE_SIZE INPUT.MIN_SCALE INPUT.MAX_SCALE DATALOADER.FILTER_EMPTY_ANNOTATIONS
    DATALOADER.ASPECT_RATIO_GROUPING MODEL.CLOUDS.OVERWRITING DATASETS.TRAIN_REPEAT_FACTOR
    """
    assert sorted(named) == sorted(expected.split())


def test_dump_loads_again(tmp_path):
    cfg = load_config(CONFIGS / "warmup" / "synthia" / "train_syn_r101.yaml", ["SEED", "5", "OUTPUT_DIR", "a b"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load_config(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize(
    ("wanted", "gpu", "resolved"), [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_device(monkeypatch, wanted, gpu, resolved):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cfg = load_config(None, ["MODEL.DEVICE", wanted])
    cfg.freeze()
    resolve_device(cfg)
    assert cfg.MODEL.DEVICE == resolved
    assert cfg.is_frozen()


def test_device_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU"):
        resolve_device(load_config(None, ["MODEL.DEVICE", "cuda:0"]))


def test_device_unknown():
    with pytest.raises(UserError, match=r"MODEL\.DEVICE is 'gpu', which torch does not know"):
        resolve_device(load_config(None, ["MODEL.DEVICE", "gpu"]))


def test_it_is_the_seams_config():
    assert isinstance(get_config(), CfgNode)
