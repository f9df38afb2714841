"""Types, ranges and choices of config values, checked once when a config is read.

A value has the type of its default in `clouds.config.defaults`. `RULES` limits it to a range or to choices. The upper
ends are generous: a larger value is a mistake. A name in a registry, such as that of an architecture, is a text here;
the registry checks it before anything is built. `clouds.config.relations` has the relations between keys, and
`docs/CONFIG.md` all keys in one table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouds.config.keys import value_of
from clouds.config.relations import check_relations
from clouds.config.values import shown
from clouds.errors import UserError
from clouds.utils.paths import is_path

if TYPE_CHECKING:
    from clouds.d2 import CfgNode


@dataclass(frozen=True)
class Rule:
    """Constraint on one config value.

    Attributes:
        wanted: end of the sentence "KEY must be ...".
        accepts: returns whether a value satisfies the constraint; the value already has the type of the default.
    """

    wanted: str
    accepts: Callable[[Any], bool]


def within(low: float, high: float, *, of_low: str = "") -> Rule:
    """Accept numbers from `low` to `high`, both included. `of_low` is the meaning of `low`, if it has a special one."""
    meaning = f" ({of_low})" if of_low else ""
    return Rule(f"from {low:,}{meaning} to {high:,}", lambda value: low <= value <= high)


def above(bound: float, high: float, *, advice: str = "") -> Rule:
    """Accept numbers greater than `bound`, up to `high`. `advice` is added to the message in brackets."""
    return Rule(f"above {bound}{f' ({advice})' if advice else ''}, up to {high:,}", lambda value: bound < value <= high)


def one_of(*choices: str) -> Rule:
    """Accept a fixed set of texts."""
    named = [choice or "empty" for choice in choices]
    return Rule(f"{', '.join(named[:-1])} or {named[-1]}", choices.__contains__)


def numbers(rule: Rule, *lengths: int) -> Rule:
    """Accept lists of numbers that satisfy `rule`. With `lengths`, the length of the list must be one of these."""
    if not lengths:
        return Rule(f"a list of numbers, each {rule.wanted}", lambda values: all(map(rule.accepts, values)))
    lengths_text = " or ".join("empty" if length == 0 else f"{length} numbers" for length in lengths)
    return Rule(
        f"{lengths_text}, each {rule.wanted}",
        lambda values: len(values) in lengths and all(map(rule.accepts, values)),
    )


def names(what: str, accepts: Callable[[str], bool], *, least: int = 0) -> Rule:
    """Accept lists of at least `least` different texts that each satisfy `accepts`."""
    return Rule(
        f"a list of {what} without repetition",
        lambda values: least <= len(values) == len(set(values)) and all(map(accepts, values)),
    )


def registered(what: str, *, optional: bool = False) -> Rule:
    """Accept a name, or with `optional` an empty text; the registry of `what` checks that it exists."""
    empty = "empty or " if optional else ""
    return Rule(f"{empty}a name in the registry of {what}", _is_text if optional else _is_name)


def _is_text(text: str) -> bool:
    return text.isprintable() and len(text) <= 4096


def _is_name(text: str) -> bool:
    return bool(text) and _is_text(text)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return _is_name(text)


def _is_path_or_url(text: str) -> bool:
    return is_path(text) or (_is_text(text) and "://" in text)


def _is_module(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


_DEVICE = re.compile(r"auto|cpu|meta|(cuda|mps|xpu)(:\d{1,3})?")

CHANNELS = within(1, 4096)
PIXELS = within(1, 16_384)
HEADS = within(1, 1024)
LAYERS = 100
WEIGHT = within(0, 1_000_000)
SHARE = within(0, 1)
COUNT = 1_000_000_000
TEXT = Rule("a text without control characters", _is_text)
PATH = Rule("empty or a path", is_path)

RULES: dict[str, Rule] = {
    "VERSION": Rule("2, the only version of the config format", lambda version: version == 2),
    "OUTPUT_DIR": Rule("the name of a folder", lambda text: bool(text) and is_path(text)),
    "SEED": Rule("at most 2,147,483,647 (negative: random)", lambda seed: -(2**31) <= seed < 2**31),
    "FLOAT32_PRECISION": one_of("", "highest", "high", "medium"),
    "MODEL.META_ARCHITECTURE": registered("architectures"),
    "MODEL.WEIGHTS": Rule("empty, a path or a URL", _is_path_or_url),
    "MODEL.DEVICE": Rule("auto, cpu, cuda or a GPU such as cuda:1", lambda name: _DEVICE.fullmatch(name) is not None),
    "MODEL.PIXEL_MEAN": numbers(within(-1000, 1000), 0, 3),
    "MODEL.PIXEL_STD": numbers(above(0, 1000), 0, 3),
    "MODEL.BACKBONE.NAME": registered("backbones"),
    "MODEL.ADAPTER.NAME": registered("adapters", optional=True),
    "MODEL.ADAPTER.WEIGHTS": PATH,
    "MODEL.ADAPTER.RANK": within(1, 4096),
    "MODEL.ADAPTER.ALPHA": above(0, 1_000_000),
    "MODEL.ADAPTER.PATTERNS": names("regular expressions", _is_pattern),
    "MODEL.ADAPTER.SKIP_BLOCKS": within(0, 1000),
    "MODEL.ADAPTER.TOKENS": within(2, 10_000),
    "MODEL.BACKBONE.TIMM.MODEL_NAME": Rule("the name of a model, or a path", lambda text: bool(text) and is_path(text)),
    "MODEL.BACKBONE.TIMM.WEIGHTS": Rule("empty, pretrained or a path", is_path),
    "MODEL.BACKBONE.TIMM.PATCH_SIZE": within(0, 64, of_low="the model's own"),
    "MODEL.SEM_SEG_HEAD.NAME": registered("heads"),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": names("feature maps", _is_name, least=1),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": Rule("255, as in every label map", lambda label: label == 255),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": within(1, 254),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": CHANNELS,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": CHANNELS,
    "MODEL.SEM_SEG_HEAD.NORM": one_of("GN", ""),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": registered("heads"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": names("feature maps", _is_name, least=1),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": within(1, 1024),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": HEADS,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION": one_of("auto", "triton", "embedding_bag", "grid_sample"),
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": within(0, LAYERS),
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD": within(1, 65_536),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": within(1, 1024),
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": registered("transformer decoders"),
    "MODEL.MASK_FORMER.HIDDEN_DIM": CHANNELS,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": within(1, 10_000),
    "MODEL.MASK_FORMER.NHEADS": HEADS,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": within(1, 65_536),
    "MODEL.MASK_FORMER.DEC_LAYERS": within(1, LAYERS, of_low="the learned queries alone"),
    "MODEL.MASK_FORMER.DROPOUT": SHARE,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": within(0, 128, of_low="the backbone's own divisor"),
    "MODEL.MASK_FORMER.CLASS_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.MASK_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.DICE_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": WEIGHT,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": within(1, 1_000_000),
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": within(1, 100),
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": SHARE,
    "MODEL.CLOUDS.CLIP_MODEL_NAME": Rule("the name of a model, or a path", lambda text: bool(text) and is_path(text)),
    "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS": Rule("empty, a tag of open_clip or a path", is_path),
    "MODEL.CLOUDS.EMBED_DIM": within(1, 65_536),
    "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA": SHARE,
    "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_BETA": SHARE,
    "MODEL.CLOUDS.ITERATION_UPDATE": within(1, COUNT),
    "MODEL.CLOUDS.PANEL_PERIOD": within(0, COUNT, of_low="no panels"),
    "MODEL.CLOUDS.SAM.ALPHA_EMA": SHARE,
    "MODEL.CLOUDS.SAM.SIZE_THRESHOLD": within(0, COUNT),
    "MODEL.CLOUDS.SAM.PROMPTS": one_of("points", "text"),
    "MODEL.CLOUDS.SAM.SCORE_THRESHOLD": SHARE,
    "MODEL.CLOUDS.SAM.NUM_POINTS": within(1, 10_000),
    "MODEL.CLOUDS.SAM.SELECTION_MODE": one_of("random", "center", "largest_component"),
    "MODEL.CLOUDS.SAM.EROSION_SIZE": within(0, 1000, of_low="no erosion"),
    "MODEL.CLOUDS.SAM.TYPE": registered("SAM back ends"),
    "MODEL.CLOUDS.SAM.WEIGHTS": PATH,
    "MODEL.CLOUDS.SAM.IMAGE_SIZE": Rule(
        "a multiple of 16, from 64 to 4,096", lambda size: 64 <= size <= 4096 and size % 16 == 0
    ),
    "MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE": within(1, 1_000_000),
    "MODEL.CLOUDS.SAM.DTYPE": one_of("auto", "float32", "bfloat16"),
    "MODEL.CLOUDS.SAM.CACHE_DIR": PATH,
    "MODEL.CLOUDS.SAM.CACHE_SIZE": above(0, 1_000_000, advice="GB"),
    "INPUT.INITIAL_HEIGHT": PIXELS,
    "INPUT.INITIAL_WIDTH": PIXELS,
    "INPUT.SCALE_RANGE": Rule(
        "two numbers above 0, up to 100, the smaller one first",
        lambda scales: len(scales) == 2 and 0 < scales[0] <= scales[1] <= 100,
    ),
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": above(0, 1, advice="1 is no limit"),
    "INPUT.CROP_SIZE": numbers(PIXELS, 2),
    "INPUT.COLOR_AUG_STRENGTH": within(0, 100, of_low="no jitter"),
    "INPUT.PL_THRESHOLD": SHARE,
    "INPUT.TEST_SHORT_EDGE": within(0, 16_384, of_low="each image keeps its size"),
    "INPUT.TEST_MAX_PIXELS": within(0, COUNT, of_low="no limit"),
    "DATASETS.TRAIN": names("data sets", _is_name),
    "DATASETS.TEST": names("data sets", _is_name),
    "DATASETS.SOURCE_FACTOR": above(
        0, 1000, advice="to train without labeled images, leave their set out of DATASETS.TRAIN"
    ),
    "DATASETS.TARGET_FACTOR": above(
        0, 1000, advice="to train without generated images, leave their set out of DATASETS.TRAIN"
    ),
    "DATASETS.CUSTOM": names("YAML files", lambda text: bool(text) and is_path(text)),
    "DATASETS.MODULES": names("Python modules", _is_module),
    "DATALOADER.NUM_WORKERS": Rule(
        "from 0 (images are loaded by the training process) to 256, or -1 (by the number of cores)",
        lambda workers: -1 <= workers <= 256,
    ),
    "DATALOADER.ON_ERROR": one_of("raise", "skip"),
    "DATALOADER.SAMPLER_TRAIN": registered("samplers"),
    "DATALOADER.RARE_CLASS.TEMPERATURE": above(0, 1_000_000),
    "DATALOADER.RARE_CLASS.MIN_PIXELS": within(1, COUNT),
    "DATALOADER.RARE_CLASS.MIN_CROP_RATIO": within(0, 1_000_000, of_low="the first crop is taken"),
    "SOLVER.IMS_PER_BATCH": within(1, 10_000),
    "SOLVER.ACCUMULATION": within(1, 10_000),
    "SOLVER.EMA_DECAY": Rule("from 0 (no average) to less than 1", lambda decay: 0 <= decay < 1),
    "SOLVER.MAX_ITER": within(1, COUNT),
    "SOLVER.OPTIMIZER": one_of("ADAMW", "SGD"),
    "SOLVER.BASE_LR": above(0, 1000),
    "SOLVER.BACKBONE_MULTIPLIER": within(0, 1000),
    "SOLVER.ADAPTER_MULTIPLIER": within(0, 1000),
    "SOLVER.ADAPTER_DECAY": one_of("constant", "cosine"),
    "SOLVER.MOMENTUM": SHARE,
    "SOLVER.WEIGHT_DECAY": within(0, 1000),
    "SOLVER.WEIGHT_DECAY_NORM": within(0, 1000),
    "SOLVER.WEIGHT_DECAY_EMBED": within(0, 1000),
    "SOLVER.LR_SCHEDULER_NAME": one_of("WarmupMultiStepLR", "WarmupPolyLR"),
    "SOLVER.STEPS": numbers(within(0, COUNT)),
    "SOLVER.GAMMA": above(0, 1000),
    "SOLVER.POLY_LR_POWER": within(0, 1000),
    "SOLVER.POLY_LR_CONSTANT_ENDING": SHARE,
    "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_ITERS": within(0, COUNT, of_low="no warm-up"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("full_model", "norm", "value"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": within(0, 1_000_000, of_low="no clipping"),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Rule("from 1 to 1,000, or inf", lambda p: 1 <= p <= 1000 or p == math.inf),
    "SOLVER.CHECKPOINT_PERIOD": within(0, COUNT, of_low="at every fifth evaluation"),
    "SOLVER.CHECKPOINT_MINUTES": within(0, 1_000_000, of_low="by iterations only"),
    "SOLVER.CHECKPOINTS_KEPT": within(0, COUNT, of_low="all"),
    "SOLVER.AMP.DTYPE": one_of("auto", "bfloat16", "float16"),
    "TEST.EVAL_PERIOD": within(0, COUNT, of_low="only at the end"),
    "TEST.SELECT_ON": Rule("empty or the name of a data set", _is_text),
    "TEST.SHOWN_IMAGES": within(0, 64, of_low="none"),
    "TEST.PROTOCOLS": names("protocols and YAML files", lambda text: bool(text) and is_path(text)),
    "TEST.PROTOCOL": one_of("full_resolution", "published_short_edge"),
    "TEST.WINDOW": within(0, 16_384, of_low="the whole image at once"),
    "TEST.STRIDE": within(0, 16_384, of_low="TEST.WINDOW"),
    "TEST.AUG.SCALES": Rule(
        "one number or more, each above 0, up to 100",
        lambda scales: bool(scales) and all(0 < scale <= 100 for scale in scales),
    ),
    "WANDB.PROJECT": TEXT,
    "WANDB.NAME": TEXT,
}
"""Rule of each config key; switches (True or False) have none."""


def check(cfg: CfgNode, sources: Mapping[str, str]) -> None:
    """Check every value of a config against `RULES`, then the relations between keys.

    Args:
        cfg: config with values of the right types.
        sources: key -> source of its value, such as "in train.yaml"; keys that are missing have their default.

    Raises:
        UserError: a value is out of range. The message names the key, the value, its source and the range.
    """
    for key, rule in RULES.items():
        value = value_of(cfg, key)
        if not rule.accepts(value):
            where = f" {sources[key]}" if key in sources else ""
            raise UserError(f"{key}{where} must be {rule.wanted}, not {shown(value)}.")
    check_relations(cfg)
