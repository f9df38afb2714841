"""The schema rejects values outside the documented ranges, and names the key, the value and the range."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.config import get_config, load_config
from clouds.config.schema import RULES, check
from clouds.config.values import typed
from clouds.errors import UserError
from tests.config.keys import KNOWN

ROOT = Path(__file__).resolve().parents[2]

# The documented ranges, independent of the table under test: (lowest, highest), both included, and the keys.
CHANNELS = "MODEL.SEM_SEG_HEAD.CONVS_DIM MODEL.SEM_SEG_HEAD.MASK_DIM MODEL.MASK_FORMER.HIDDEN_DIM"
WIDE = """
    MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD MODEL.MASK_FORMER.DIM_FEEDFORWARD MODEL.CLOUDS.EMBED_DIM
"""
HEADS = """
    MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS MODEL.MASK_FORMER.NHEADS
    MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS MODEL.SEM_SEG_HEAD.COMMON_STRIDE
"""
LOSS_WEIGHTS = """
    MODEL.MASK_FORMER.CLASS_WEIGHT MODEL.MASK_FORMER.MASK_WEIGHT MODEL.MASK_FORMER.DICE_WEIGHT
    MODEL.MASK_FORMER.NO_OBJECT_WEIGHT SOLVER.CLIP_GRADIENTS.CLIP_VALUE DATALOADER.RARE_CLASS.MIN_CROP_RATIO
"""
SHARES = """
    MODEL.MASK_FORMER.DROPOUT MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA
    MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_BETA MODEL.CLOUDS.SAM.ALPHA_EMA INPUT.PL_THRESHOLD SOLVER.MOMENTUM
    SOLVER.POLY_LR_CONSTANT_ENDING SOLVER.WARMUP_FACTOR MODEL.CLOUDS.SAM.SCORE_THRESHOLD
"""
FACTORS = """
    SOLVER.BACKBONE_MULTIPLIER SOLVER.WEIGHT_DECAY SOLVER.WEIGHT_DECAY_NORM SOLVER.WEIGHT_DECAY_EMBED
    SOLVER.POLY_LR_POWER SOLVER.ADAPTER_MULTIPLIER MODEL.ADAPTER.SKIP_BLOCKS
"""
PERIODS = """
    MODEL.CLOUDS.PANEL_PERIOD MODEL.CLOUDS.SAM.SIZE_THRESHOLD SOLVER.WARMUP_ITERS SOLVER.CHECKPOINT_PERIOD
    SOLVER.CHECKPOINTS_KEPT TEST.EVAL_PERIOD INPUT.TEST_MAX_PIXELS
"""
FROM_0 = {1: SHARES, 1000: FACTORS, 1_000_000: LOSS_WEIGHTS, 10**9: PERIODS} | {
    100: "INPUT.COLOR_AUG_STRENGTH MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS",
    64: "MODEL.BACKBONE.TIMM.PATCH_SIZE TEST.SHOWN_IMAGES",
    128: "MODEL.MASK_FORMER.SIZE_DIVISIBILITY",
    16_384: "INPUT.TEST_SHORT_EDGE TEST.WINDOW TEST.STRIDE",
}
FROM_0[1_000_000] += " SOLVER.CHECKPOINT_MINUTES"
FROM_0[1000] += "MODEL.CLOUDS.SAM.EROSION_SIZE"
FROM_1 = {
    254: "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    100: "MODEL.MASK_FORMER.DEC_LAYERS MODEL.MASK_FORMER.OVERSAMPLE_RATIO",
    1024: HEADS,
    4096: f"{CHANNELS} MODEL.ADAPTER.RANK",
    10_000: "MODEL.CLOUDS.SAM.NUM_POINTS MODEL.MASK_FORMER.NUM_OBJECT_QUERIES SOLVER.IMS_PER_BATCH SOLVER.ACCUMULATION",
    16_384: "INPUT.INITIAL_HEIGHT INPUT.INITIAL_WIDTH",
    65_536: WIDE,
    1_000_000: "MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE MODEL.MASK_FORMER.TRAIN_NUM_POINTS",
    10**9: "MODEL.CLOUDS.ITERATION_UPDATE DATALOADER.RARE_CLASS.MIN_PIXELS SOLVER.MAX_ITER",
}
ABOVE_0 = {
    1: "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
    1000: "DATASETS.SOURCE_FACTOR DATASETS.TARGET_FACTOR SOLVER.BASE_LR SOLVER.GAMMA",
    1_000_000: "MODEL.CLOUDS.SAM.CACHE_SIZE DATALOADER.RARE_CLASS.TEMPERATURE MODEL.ADAPTER.ALPHA",
}
RANGES = {
    **{key: lambda value, high=high: 0 <= value <= high for high, keys in FROM_0.items() for key in keys.split()},
    **{key: lambda value, high=high: 1 <= value <= high for high, keys in FROM_1.items() for key in keys.split()},
    **{key: lambda value, high=high: 0 < value <= high for high, keys in ABOVE_0.items() for key in keys.split()},
    "MODEL.ADAPTER.TOKENS": lambda value: 2 <= value <= 10_000,
    "DATALOADER.NUM_WORKERS": lambda value: -1 <= value <= 256,
    "SEED": lambda value: -(2**31) <= value < 2**31,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": lambda value: value == 255,
    "MODEL.CLOUDS.SAM.IMAGE_SIZE": lambda value: value in range(64, 4097, 16),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": lambda value: 1 <= value <= 1000 or value == math.inf,
    "SOLVER.EMA_DECAY": lambda value: 0 <= value < 1,
    "VERSION": lambda value: value == 2,
}
CHOICES = {
    "FLOAT32_PRECISION": {"", "highest", "high", "medium"},
    "MODEL.SEM_SEG_HEAD.NORM": {"GN", ""},
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION": {"auto", "triton", "embedding_bag", "grid_sample"},
    "MODEL.CLOUDS.SAM.SELECTION_MODE": {"random", "center", "largest_component"},
    "MODEL.CLOUDS.SAM.PROMPTS": {"points", "text"},
    "MODEL.CLOUDS.SAM.DTYPE": {"auto", "float32", "bfloat16"},
    "DATALOADER.ON_ERROR": {"raise", "skip"},
    "SOLVER.ADAPTER_DECAY": {"constant", "cosine"},
    "SOLVER.OPTIMIZER": {"ADAMW", "SGD"},
    "SOLVER.LR_SCHEDULER_NAME": {"WarmupMultiStepLR", "WarmupPolyLR"},
    "SOLVER.WARMUP_METHOD": {"linear", "constant"},
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": {"full_model", "norm", "value"},
    "SOLVER.AMP.DTYPE": {"auto", "bfloat16", "float16"},
    "TEST.PROTOCOL": {"full_resolution", "published_short_edge"},
}
# Good values, then bad ones.
LISTS = {
    "MODEL.PIXEL_MEAN": ([[], [0.0, -1.0, 300.0]], [[1.0], [1.0, 2.0, math.nan], [1.0, 2.0, 1e9]]),
    "MODEL.PIXEL_STD": ([[], [1.0, 2.0, 3.0]], [[1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, math.inf]]),
    "INPUT.SCALE_RANGE": (
        [(1.0, 1.0), (0.1, 9.0)],
        [(2.0, 1.0), (0.0, 1.0), (1.0,), (1.0, math.inf), (1.0, 101.0), (1.0, 2.0, 3.0), (), (math.nan, math.nan)],
    ),
    "TEST.AUG.SCALES": ([(1.0,), (0.5, 1.0, 100.0)], [(), (0.0,), (1.0, -1.0), (1.0, 101.0), (math.nan,)]),
    "INPUT.CROP_SIZE": ([(1, 1), (16_384, 1)], [(0, 8), (0, 0), (8,), (8, 8, 8), (), (8, 10**9)]),
    "SOLVER.STEPS": ([(), (0,), (9, 3)], [(-1,), (3, -3), (10**10,)]),
    **dict.fromkeys(
        (
            "MODEL.SEM_SEG_HEAD.IN_FEATURES",
            "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES",
        ),
        ([["res5"], ["a", "b"]], [[], [""], ["res5", "res5"], ["a\0"]]),
    ),
    **dict.fromkeys(("DATASETS.TRAIN", "DATASETS.TEST"), ([(), ("a", "b")], [("",), ("a", "a"), ("a\n",)])),
    "MODEL.ADAPTER.PATTERNS": ([(), (r"mlp\.fc[12]", "a|b")], [("",), ("a", "a"), ("(",), ("a\n",)]),
    "DATASETS.CUSTOM": ([(), ("a/b.yaml",)], [("",), ("a", "a"), ("a\0",), ("x" * 256,)]),
    "TEST.PROTOCOLS": ([(), ("rein_512", "a/b.yaml")], [("",), ("a", "a"), ("a\0",), ("x" * 256,)]),
    "DATASETS.MODULES": ([(), ("a.b",)], [("",), ("a/b.py",), ("a.",), ("a", "a")]),
}
LONG = ["x" * 256, "a/" * 3000, "a\0b", "a\nb", "\ud800", "\u202e"]
TEXTS = {
    "OUTPUT_DIR": (["a b", "/tmp/ä"], ["", "https://a.b/c", *LONG]),
    "MODEL.DEVICE": (
        ["auto", "cpu", "cuda", "cuda:1", "meta", "mps"],
        ["gpu", "cuda:", "cpu:x", "Cuda", "", "cuda:9999"],
    ),
    "MODEL.WEIGHTS": (["", "a.pth", f"https://a.b/{'x' * 999}"], LONG),
    **dict.fromkeys(
        ("MODEL.CLOUDS.CLIP_MODEL_NAME", "MODEL.BACKBONE.TIMM.MODEL_NAME"),
        (["RN50", "hf-hub:a/b", "a/b"], ["", *LONG]),
    ),
    "MODEL.BACKBONE.TIMM.WEIGHTS": (["", "pretrained", "a/b.pth"], ["https://a.b/c", *LONG]),
    **dict.fromkeys(
        (
            *("MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS", "MODEL.CLOUDS.SAM.WEIGHTS", "MODEL.CLOUDS.SAM.CACHE_DIR"),
            "MODEL.ADAPTER.WEIGHTS",
        ),
        (["", "a/b", "laion2b_s29b"], ["https://a.b/c", *LONG]),
    ),
    **dict.fromkeys(("WANDB.PROJECT", "WANDB.NAME"), (["", "a b"], ["a\0", "a\nb", "x" * 5000])),
    "MODEL.ADAPTER.NAME": (["", "Mine"], ["a\0", "a\nb"]),
    "TEST.SELECT_ON": (["", "gta5_val"], ["a\0", "a\nb"]),
    # The registry checks that the name exists.
    **dict.fromkeys(
        (
            *("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.SEM_SEG_HEAD.NAME", "MODEL.CLOUDS.SAM.TYPE"),
            *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"),
            "DATALOADER.SAMPLER_TRAIN",
        ),
        (["Mine"], ["", "a\nb", "a\0"]),
    ),
}
EXAMPLES = LISTS | TEXTS


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
    assert message == f"{key} in train.yaml must be {RULES[key].wanted}, not {value!r}." or "[...]" in message
    assert message.startswith(f"{key} in train.yaml must be ")


def test_every_key_is_covered():
    groups = [set(RANGES), set(CHOICES), set(EXAMPLES)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert set().union(*groups) == set(RULES)
    switches = {key for key, value in KNOWN.items() if isinstance(value, bool)}
    assert set(RULES) == set(KNOWN) - switches, "every key has a rule, except switches, whose type is their rule"


@pytest.mark.parametrize("key", RULES)
def test_defaults_are_accepted(key):
    assert RULES[key].accepts(KNOWN[key])


@settings(deadline=None, max_examples=400)
@given(key=st.sampled_from(sorted(RANGES)), data=st.data())
def test_ranges(key, data):
    fractions = st.one_of(st.floats(-2, 2), st.floats(), st.sampled_from([0.0, 1.0]))
    value = data.draw(fractions if isinstance(KNOWN[key], float) else st.integers(-3, 300) | st.integers())
    if RANGES[key](value):
        assert RULES[key].accepts(value)
    else:
        assert_rejected(key, value)


@pytest.mark.parametrize("key", [key for key in RANGES if isinstance(KNOWN[key], float)])
@pytest.mark.parametrize(
    "value", [-1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.0 + 1e-9, 7.0, 1e3, 1e6, 1e7, 1e300, math.inf, -math.inf, math.nan]
)
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


@pytest.mark.parametrize("key", EXAMPLES)
def test_lists_and_texts(key):
    good, bad = EXAMPLES[key]
    for value in good:
        assert RULES[key].accepts(value)
    for value in bad:
        assert_rejected(key, value)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.BASE_LR", "0"], r"^SOLVER\.BASE_LR on the command line must be above 0, up to 1,000, not 0\.0\.$"),
        (["SOLVER.OPTIMIZER", "LION"], "must be ADAMW or SGD, not 'LION'"),
        (["SOLVER.CHECKPOINTS_KEPT", "-1"], r"must be from 0 \(all\) to 1,000,000,000, not -1"),
        (["MODEL.SEM_SEG_HEAD.NORM", "BN"], "must be GN or empty, not 'BN'"),
        (["INPUT.CROP_SIZE", "(768,)"], r"must be 2 numbers, each from 1 to 16,384, not \(768,\)"),
        (["MODEL.PIXEL_STD", "[1, 2]"], r"must be empty or 3 numbers, each above 0, up to 1,000, not \[1\.0, 2\.0\]"),
        (["DATASETS.TARGET_FACTOR", "0"], "leave their set out of DATASETS.TRAIN"),
        (["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "CLOUDSHead"], "NAME are both 'CLOUDSHead': name a head, such as"),
        (["MODEL.SEM_SEG_HEAD.NAME", "MSDeformAttnPixelDecoder"], "NAME are both 'MSDeformAttnPixelDecoder'"),
        (["SOLVER.BASE_LR", "inf"], r"BASE_LR on the command line must be above 0, up to 1,000, not inf\.$"),
        (["SOLVER.BASE_LR", "nan"], r"must be above 0, up to 1,000, not nan\.$"),
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
    with pytest.raises(
        UserError, match=rf"^SOLVER\.MAX_ITER in {tmp_path}/base\.yaml must be from 1 to 1,000,000,000, not 0\.$"
    ):
        load_config(tmp_path / "top.yaml")
    load_config(tmp_path / "top.yaml", ["SOLVER.MAX_ITER", "1"])  # only the value that is used counts


def test_factors_only_matter_to_a_weighted_sampler():
    load_config(None, ["DATASETS.SOURCE_FACTOR", "0.5", "DATASETS.TARGET_FACTOR", "0.7"])


def test_a_norm_may_be_infinite():
    assert load_config(None, ["SOLVER.CLIP_GRADIENTS.NORM_TYPE", "inf"]).SOLVER.CLIP_GRADIENTS.NORM_TYPE == math.inf


def test_another_pixel_decoder_has_its_own_widths():
    load_config(None, ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "72", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "Mine"])


def test_empty_lists_of_numbers_take_numbers():
    assert typed("MODEL.PIXEL_MEAN", "[1, 2, 3]", "here") == [1.0, 2.0, 3.0]
    with pytest.raises(UserError, match=r"each entry of MODEL\.PIXEL_MEAN here must be a number"):
        typed("MODEL.PIXEL_MEAN", "['a']", "here")


PROJECT_CONFIGS = [path for path in sorted(ROOT.glob("projects/*/configs/**/*.yaml")) if path.parent.name != "plans"]
OWN_CONFIGS = [
    path for path in sorted(ROOT.glob("configs/**/*.yaml")) if path.parent.name not in ("datasets", "protocols")
]


@pytest.mark.parametrize("path", [*OWN_CONFIGS, *PROJECT_CONFIGS], ids=lambda path: path.stem)
def test_all_configs_pass(path, caplog):
    load_config(path)
    assert caplog.records == []


def test_there_are_configs_to_pass():
    assert len(OWN_CONFIGS) >= 18 + 3


def test_windows_leave_no_gaps():
    with pytest.raises(UserError, match=r"TEST\.STRIDE is 65, more than TEST\.WINDOW, 64, which leaves gaps"):
        load_config(None, ["TEST.WINDOW", "64", "TEST.STRIDE", "65"])
    for window, stride in (("64", "64"), ("64", "0"), ("0", "65")):
        load_config(None, ["TEST.WINDOW", window, "TEST.STRIDE", stride])
