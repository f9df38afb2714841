"""Reading a config from files and a command line, in both modes of `clouds.d2`."""

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.config import get_config, load_config
from clouds.config.keys import value_of
from clouds.d2 import CfgNode
from clouds.errors import UserError
from tests.config.keys import KNOWN

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_every_default_in_both_modes():
    cfg = get_config()
    assert {key: value_of(cfg, key) for key in KNOWN} == KNOWN
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES[0] = "stem"
    assert value_of(get_config(), "MODEL.SEM_SEG_HEAD.IN_FEATURES") == KNOWN["MODEL.SEM_SEG_HEAD.IN_FEATURES"]


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
        f"Unknown config key SOLVER.MAX_ITR in {tmp_path / 'base.yaml'}: the most similar known key is SOLVER.MAX_ITER."
    )


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.MAX_ITER", "5"], "Unknown config key MODEL.MAX_ITER on the command line: .* SOLVER.MAX_ITER"),
        (["MODEL.RESNET.DEPTH", "50"], "Unknown config key MODEL.RESNET.DEPTH"),  # an ignored section, misspelt
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
        (["VERSION", "1"], "VERSION on the command line must be 2, .* not 1"),
        (["SEED"], "KEY VALUE pairs"),
        (["SEED", "1", "--resume"], "^--resume .* put all flags before"),
        (["SEED", "1", "--num-gpus", "2"], "^--num-gpus .* put all flags before"),
    ],
)
def test_command_line_errors(opts, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(None, opts)
    assert "\n" not in str(error.value)


def test_two_bases_may_have_one_base(tmp_path):
    (tmp_path / "common.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 1}\n")
    (tmp_path / "left.yaml").write_text("_BASE_: common.yaml\nSOLVER: {MAX_ITER: 2}\n")
    (tmp_path / "right.yaml").write_text("_BASE_: common.yaml\nSOLVER: {BASE_LR: 0.5}\n")
    (tmp_path / "top.yaml").write_text("_BASE_: [left.yaml, right.yaml, right.yaml]\n")
    cfg = load_config(tmp_path / "top.yaml")
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (1, 1, 0.5), "a base is read where it is named"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: [1, 2\n", "is not YAML"),
        ("- 1\n", "must contain sections"),
        ("_BASE_: absent.yaml\n", r"absent\.yaml, the _BASE_ of .*file\.yaml, does not exist"),
        ("_BASE_: file.yaml\n", "is its own _BASE_"),
        ("_BASE_: 3\n", r"_BASE_ must be a file name or a list of file names, not \[3\]"),
        ("_BASE_: [[file.yaml]]\n", "_BASE_ must be a file name"),
        ("_BASE_: .\n", "is not a file"),
        ("_BASE_: ~nobody-of-that-name/a.yaml\n", "does not exist"),
        ('_BASE_: "a\\0b"\n', "cannot be read|does not exist"),
        (f"_BASE_: {'a' * 5000}\n", "cannot be read"),
        ("SOLVER:\n  MAX_ITER: 1\nSEED: 2\nSOLVER:\n  MAX_ITER: 3\n", "has the key SOLVER twice, on lines 1 and 4"),
        ("SOLVER:\n  MAX_ITER: 1\nSOLVER.MAX_ITER: 2\n", "sets SOLVER.MAX_ITER twice"),
        ("SOLVER:\n  MAX_ITER: {}\n", r"SOLVER\.MAX_ITER in .* must be a whole number such as 40000, not {}"),
        ("SOLVERS: {}\n", "Unknown config key SOLVERS "),
        ("&a [*a]\n", "line 1: a value refers to itself"),
        ("DATASETS: &a {TRAIN: *a}\n", "line 1: a value refers to itself"),
        ("SOLVER:\n  MAX_ITER: many\n", r"SOLVER\.MAX_ITER in .*file\.yaml must be a whole number"),
        ("SOLVER:\n  MAX_ITER:\n", r"must be a whole number such as 40000, not None"),
        ("SOLVER: 5\n", "is a section"),
        ("OUTPUT_DIR:\n  NAME: x\n", r"OUTPUT_DIR in .* must be a text such as \./output, not {'NAME': 'x'}"),
        ("SEED: !!python/object/apply:os.getpid []\n", "the tag .*getpid is not supported"),
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


def test_it_is_the_seams_config():
    assert isinstance(get_config(), CfgNode)
