"""The schema rejects values outside the documented ranges, and names the key, the value and the range."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.config import get_config, load_config
from clouds.config.schema import RULES, check, typed
from clouds.errors import UserError
from tests.config.keys import KNOWN

ROOT = Path(__file__).resolve().parents[2]

# The documented ranges, independent of the table under test.
FROM_0 = """
    MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS MODEL.MASK_FORMER.SIZE_DIVISIBILITY MODEL.MASK_FORMER.CLASS_WEIGHT
    MODEL.MASK_FORMER.MASK_WEIGHT MODEL.MASK_FORMER.DICE_WEIGHT MODEL.MASK_FORMER.NO_OBJECT_WEIGHT
    MODEL.CLOUDS.PANEL_PERIOD MODEL.CLOUDS.SAM.SIZE_THRESHOLD MODEL.CLOUDS.SAM.EROSION_SIZE INPUT.COLOR_AUG_STRENGTH
    INPUT.TEST_SHORT_EDGE DATALOADER.NUM_WORKERS DATALOADER.RARE_CLASS.MIN_CROP_RATIO SOLVER.BACKBONE_MULTIPLIER
    SOLVER.WEIGHT_DECAY SOLVER.WEIGHT_DECAY_NORM SOLVER.WEIGHT_DECAY_EMBED SOLVER.POLY_LR_POWER SOLVER.WARMUP_ITERS
    SOLVER.CLIP_GRADIENTS.CLIP_VALUE SOLVER.CHECKPOINT_PERIOD SOLVER.CHECKPOINTS_KEPT TEST.EVAL_PERIOD
"""
FROM_1 = """
    MODEL.SEM_SEG_HEAD.CONVS_DIM MODEL.SEM_SEG_HEAD.MASK_DIM MODEL.SEM_SEG_HEAD.COMMON_STRIDE
    MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD
    MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS MODEL.MASK_FORMER.HIDDEN_DIM MODEL.MASK_FORMER.NHEADS
    MODEL.MASK_FORMER.NUM_OBJECT_QUERIES MODEL.MASK_FORMER.DIM_FEEDFORWARD MODEL.MASK_FORMER.DEC_LAYERS
    MODEL.MASK_FORMER.TRAIN_NUM_POINTS MODEL.MASK_FORMER.OVERSAMPLE_RATIO MODEL.CLOUDS.EMBED_DIM
    MODEL.CLOUDS.ITERATION_UPDATE MODEL.CLOUDS.SAM.NUM_POINTS MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE INPUT.INITIAL_HEIGHT
    INPUT.INITIAL_WIDTH DATALOADER.RARE_CLASS.MIN_PIXELS SOLVER.IMS_PER_BATCH SOLVER.MAX_ITER
"""
ABOVE_0 = """
    MODEL.CLOUDS.SAM.CACHE_SIZE DATASETS.SOURCE_FACTOR DATASETS.TARGET_FACTOR DATALOADER.RARE_CLASS.TEMPERATURE
    SOLVER.BASE_LR SOLVER.GAMMA
"""
FROM_0_TO_1 = """
    MODEL.MASK_FORMER.DROPOUT MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA
    MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_BETA MODEL.CLOUDS.SAM.ALPHA_EMA INPUT.PL_THRESHOLD SOLVER.MOMENTUM
    SOLVER.POLY_LR_CONSTANT_ENDING SOLVER.WARMUP_FACTOR
"""
RANGES = {
    **dict.fromkeys(FROM_0.split(), lambda value: 0 <= value < math.inf),
    **dict.fromkeys(FROM_1.split(), lambda value: 1 <= value < math.inf),
    **dict.fromkeys(ABOVE_0.split(), lambda value: 0 < value < math.inf),
    **dict.fromkeys(FROM_0_TO_1.split(), lambda value: 0 <= value <= 1),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": lambda value: 1 <= value <= 254,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": lambda value: value == 255,
    "MODEL.CLOUDS.SAM.IMAGE_SIZE": lambda value: value in range(64, 100_000, 64),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": lambda value: value > 0,
    "VERSION": lambda value: value == 2,
}
CHOICES = {
    "MODEL.SEM_SEG_HEAD.NORM": {"GN", ""},
    "MODEL.CLOUDS.SAM.SELECTION_MODE": {"random", "center", "largest_component"},
    "SOLVER.OPTIMIZER": {"ADAMW", "SGD"},
    "SOLVER.LR_SCHEDULER_NAME": {"WarmupMultiStepLR", "WarmupPolyLR"},
    "SOLVER.WARMUP_METHOD": {"linear", "constant"},
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": {"full_model", "norm", "value"},
    "SOLVER.AMP.DTYPE": {"auto", "bfloat16", "float16"},
    "TEST.PROTOCOL": {"full_resolution", "published_short_edge"},
}
# Good values, then bad ones.
LISTS = {
    "MODEL.PIXEL_MEAN": ([[], [0.0, -1.0, 300.0]], [[1.0], [1.0, 2.0, math.nan]]),
    "MODEL.PIXEL_STD": ([[], [1.0, 2.0, 3.0]], [[1.0, 1.0], [1.0, 0.0, 1.0]]),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ([["res5"], ["a", "b"]], [[], ["res5", "res5"]]),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ([["res5"]], [[], ["res5", "res5"]]),
    "INPUT.SCALE_RANGE": ([(1.0, 1.0), (0.1, 9.0)], [(2.0, 1.0), (0.0, 1.0), (1.0,), (1.0, math.inf), (1.0, 2.0, 3.0)]),
    "INPUT.CROP_SIZE": ([(1, 1)], [(0, 8), (8,), (8, 8, 8), ()]),
    "SOLVER.STEPS": ([(), (0,), (9, 3)], [(-1,), (3, -3)]),
    "OUTPUT_DIR": (["a b"], [""]),
    "MODEL.DEVICE": (["auto", "cpu", "cuda", "cuda:1", "meta", "mps"], ["gpu", "cuda:", "cpu:x", "Cuda", ""]),
}
FREE = {
    "SEED",  # every whole number is allowed
    *("MODEL.WEIGHTS", "MODEL.CLOUDS.CLIP_MODEL_NAME", "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS"),  # checked when read
    *("MODEL.CLOUDS.SAM.WEIGHTS", "MODEL.CLOUDS.SAM.CACHE_DIR", "WANDB.PROJECT", "WANDB.NAME"),
    *("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.CUSTOM", "DATASETS.MODULES"),
}
REGISTERED = {
    *("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.SEM_SEG_HEAD.NAME", "MODEL.CLOUDS.SAM.TYPE"),
    *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"),
    "DATALOADER.SAMPLER_TRAIN",
}


def with_value(key, value):
    cfg = get_config()
    *sections, last = key.split(".")
    section = cfg
    for name in sections:
        section = section[name]
    section[last] = value
    return cfg


def assert_rejected(key, value):
    with pytest.raises(UserError) as error:
        check(with_value(key, value), {key: "in train.yaml"})
    message = str(error.value)
    assert message == f"{key} in train.yaml must be {RULES[key].wanted}, not {value!r}."
    assert "\n" not in message


def test_every_key_is_covered():
    flags = {key for key, value in KNOWN.items() if isinstance(value, bool)}
    groups = [set(RANGES), set(CHOICES), set(LISTS)]
    assert set().union(*groups) == set(RULES)
    groups += [FREE, REGISTERED, flags]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert set().union(*groups) == set(KNOWN)


@pytest.mark.parametrize("key", RULES)
def test_defaults_are_accepted(key):
    assert RULES[key].accepts(KNOWN[key])


@settings(deadline=None, max_examples=400)
@given(key=st.sampled_from(sorted(RANGES)), data=st.data())
def test_ranges(key, data):
    fractions = st.one_of(st.floats(-2, 2), st.floats(), st.sampled_from([0.0, 1.0]))
    value = data.draw(fractions if isinstance(KNOWN[key], float) else st.integers(-3, 300))
    if RANGES[key](value):
        assert RULES[key].accepts(value)
    else:
        assert_rejected(key, value)


@pytest.mark.parametrize("key", [key for key in RANGES if isinstance(KNOWN[key], float)])
@pytest.mark.parametrize("value", [-1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.0 + 1e-9, 7.0, math.inf, -math.inf, math.nan])
def test_fractions_at_the_ends_of_their_range(key, value):
    if RANGES[key](value):
        assert RULES[key].accepts(value)
    else:
        assert_rejected(key, value)


@settings(deadline=None, max_examples=100)
@given(key=st.sampled_from(sorted(CHOICES)), value=st.text(max_size=12))
def test_choices(key, value):
    for choice in CHOICES[key]:
        assert RULES[key].accepts(choice)
    for text in {value, *(choice.lower() for choice in CHOICES[key])} - CHOICES[key]:
        assert_rejected(key, text)


@pytest.mark.parametrize("key", LISTS)
def test_lists_and_texts(key):
    good, bad = LISTS[key]
    for value in good:
        assert RULES[key].accepts(value)
    for value in bad:
        assert_rejected(key, value)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.BASE_LR", "0"], r"^SOLVER\.BASE_LR on the command line must be above 0, not 0\.0\.$"),
        (["SOLVER.OPTIMIZER", "LION"], "must be ADAMW or SGD, not 'LION'"),
        (["SOLVER.CHECKPOINTS_KEPT", "-1"], r"must be 0 \(all\) or more, not -1"),
        (["MODEL.SEM_SEG_HEAD.NORM", "BN"], "must be GN or empty, not 'BN'"),
        (["INPUT.CROP_SIZE", "(768,)"], r"must be 2 numbers, each 1 or more, not \(768,\)"),
        (["MODEL.PIXEL_STD", "[1, 2]"], r"must be empty or 3 numbers, each above 0, not \[1\.0, 2\.0\]"),
        (["DATASETS.TARGET_FACTOR", "0"], "leave their set out of DATASETS.TRAIN"),
        (["MODEL.MASK_FORMER.NHEADS", "7"], "HIDDEN_DIM is 256; it must be a multiple of MODEL.MASK_FORMER.NHEADS, 7"),
        (["MODEL.SEM_SEG_HEAD.CONVS_DIM", "72"], "CONVS_DIM is 72; .* it must be a multiple of 32"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res4', 'res5']"], "ENCODER_IN_FEATURES names 'res3', .* res4"),
        (
            [
                *("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"),
                *("DATASETS.SOURCE_FACTOR", "0.5", "DATASETS.TARGET_FACTOR", "0.7"),
            ],
            "SOURCE_FACTOR is 0.5 and DATASETS.TARGET_FACTOR 0.7; with WeightedTrainingSampler one of them must be at",
        ),
    ],
)
def test_messages(opts, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(None, opts)
    assert "\n" not in str(error.value)


def test_the_file_with_the_value_is_named(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  MAX_ITER: 0\n")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nSEED: 3\n")
    with pytest.raises(UserError, match=rf"^SOLVER\.MAX_ITER in {tmp_path}/base\.yaml must be 1 or more, not 0\.$"):
        load_config(tmp_path / "top.yaml")
    load_config(tmp_path / "top.yaml", ["SOLVER.MAX_ITER", "1"])  # only the value that is used counts


def test_factors_only_matter_to_a_weighted_sampler():
    load_config(None, ["DATASETS.SOURCE_FACTOR", "0.5", "DATASETS.TARGET_FACTOR", "0.7"])


def test_another_pixel_decoder_has_its_own_widths():
    load_config(None, ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "72", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "Mine"])


def test_empty_lists_of_numbers_take_numbers():
    assert typed("MODEL.PIXEL_MEAN", "[1, 2, 3]", "here") == [1.0, 2.0, 3.0]
    with pytest.raises(UserError, match=r"each entry of MODEL\.PIXEL_MEAN here must be a number"):
        typed("MODEL.PIXEL_MEAN", "['a']", "here")


PROJECT_CONFIGS = sorted(ROOT.glob("projects/*/configs/**/*.yaml"))
OWN_CONFIGS = [path for path in sorted(ROOT.glob("configs/**/*.yaml")) if path.parent.name != "datasets"]


@pytest.mark.parametrize("path", [*OWN_CONFIGS, *PROJECT_CONFIGS], ids=lambda path: path.stem)
def test_all_configs_pass(path, caplog):
    load_config(path)
    assert caplog.records == []


def test_there_are_configs_to_pass():
    assert len(OWN_CONFIGS) >= 18 + 3
