"""Types, ranges and choices of config values, checked once when a config is read.

A value has the type of its default in `clouds.config.defaults`. `RULES` limits it to a range or to fixed choices. Names
in a registry, such as architectures and SAM back ends, have no rule: the registry checks them before anything is built.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouds.config.defaults import DEFAULTS
from clouds.errors import UserError, check_name

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


def at_least(least: float, meaning: str = "") -> Rule:
    """Accept finite numbers from `least` on. `meaning` explains the value `least` if it has a special meaning."""
    return Rule(
        f"{least} ({meaning}) or more" if meaning else f"{least} or more", lambda value: least <= value < math.inf
    )


def above(bound: float, advice: str = "") -> Rule:
    """Accept finite numbers greater than `bound`. `advice` is added to the message in brackets."""
    return Rule(f"above {bound}{f' ({advice})' if advice else ''}", lambda value: bound < value < math.inf)


def within(low: float, high: float) -> Rule:
    """Accept numbers from `low` to `high`, both included."""
    return Rule(f"from {low} to {high}", lambda value: low <= value <= high)


def one_of(*choices: str) -> Rule:
    """Accept a fixed set of texts."""
    named = [choice or "empty" for choice in choices]
    return Rule(f"{', '.join(named[:-1])} or {named[-1]}", choices.__contains__)


def each(rule: Rule, *lengths: int) -> Rule:
    """Accept lists whose entries satisfy `rule`. With `lengths`, the length of the list must be one of these."""
    if not lengths:
        return Rule(f"a list of numbers, each {rule.wanted}", lambda values: all(map(rule.accepts, values)))
    lengths_text = " or ".join("empty" if length == 0 else f"{length} numbers" for length in lengths)
    return Rule(
        f"{lengths_text}, each {rule.wanted}",
        lambda values: len(values) in lengths and all(map(rule.accepts, values)),
    )


_DEVICE = re.compile(r"auto|cpu|meta|(cuda|mps|xpu)(:\d+)?")
_FINITE = Rule("finite", math.isfinite)
_DISTINCT = Rule("a list of names without repetition", lambda names: 0 < len(names) == len(set(names)))

RULES: dict[str, Rule] = {
    "VERSION": Rule("2, the only version of the config format", lambda version: version == 2),
    "OUTPUT_DIR": Rule("the name of a folder", bool),
    "MODEL.DEVICE": Rule("auto, cpu, cuda or cuda:<number>", lambda name: _DEVICE.fullmatch(name) is not None),
    "MODEL.PIXEL_MEAN": each(_FINITE, 0, 3),
    "MODEL.PIXEL_STD": each(above(0), 0, 3),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": _DISTINCT,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": Rule("255, as in every label map", lambda label: label == 255),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": within(1, 254),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": at_least(1),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": at_least(1),
    "MODEL.SEM_SEG_HEAD.NORM": one_of("GN", ""),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": _DISTINCT,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": at_least(1),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": at_least(1),
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": at_least(0),
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD": at_least(1),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": at_least(1),
    "MODEL.MASK_FORMER.HIDDEN_DIM": at_least(1),
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": at_least(1),
    "MODEL.MASK_FORMER.NHEADS": at_least(1),
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": at_least(1),
    "MODEL.MASK_FORMER.DEC_LAYERS": at_least(1, "the learnt queries alone"),
    "MODEL.MASK_FORMER.DROPOUT": within(0, 1),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": at_least(0, "the backbone's own divisor"),
    "MODEL.MASK_FORMER.CLASS_WEIGHT": at_least(0),
    "MODEL.MASK_FORMER.MASK_WEIGHT": at_least(0),
    "MODEL.MASK_FORMER.DICE_WEIGHT": at_least(0),
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": at_least(0),
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": at_least(1),
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": at_least(1),
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": within(0, 1),
    "MODEL.CLOUDS.EMBED_DIM": at_least(1),
    "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA": within(0, 1),
    "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_BETA": within(0, 1),
    "MODEL.CLOUDS.ITERATION_UPDATE": at_least(1),
    "MODEL.CLOUDS.PANEL_PERIOD": at_least(0, "no panels"),
    "MODEL.CLOUDS.SAM.ALPHA_EMA": within(0, 1),
    "MODEL.CLOUDS.SAM.SIZE_THRESHOLD": at_least(0),
    "MODEL.CLOUDS.SAM.NUM_POINTS": at_least(1),
    "MODEL.CLOUDS.SAM.SELECTION_MODE": one_of("random", "center", "largest_component"),
    "MODEL.CLOUDS.SAM.EROSION_SIZE": at_least(0, "no erosion"),
    "MODEL.CLOUDS.SAM.IMAGE_SIZE": Rule("a multiple of 64, at least 64", lambda size: size >= 64 and size % 64 == 0),
    "MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE": at_least(1),
    "MODEL.CLOUDS.SAM.CACHE_SIZE": above(0, "GB"),
    "INPUT.INITIAL_HEIGHT": at_least(1),
    "INPUT.INITIAL_WIDTH": at_least(1),
    "INPUT.SCALE_RANGE": Rule(
        "two numbers above 0, the smaller one first",
        lambda scales: len(scales) == 2 and 0 < scales[0] <= scales[1] < math.inf,
    ),
    "INPUT.CROP_SIZE": each(at_least(1), 2),
    "INPUT.COLOR_AUG_STRENGTH": at_least(0, "no jitter"),
    "INPUT.PL_THRESHOLD": within(0, 1),
    "INPUT.TEST_SHORT_EDGE": at_least(0, "each image keeps its size"),
    "DATASETS.SOURCE_FACTOR": above(0, "to train without labelled images, leave their set out of DATASETS.TRAIN"),
    "DATASETS.TARGET_FACTOR": above(0, "to train without generated images, leave their set out of DATASETS.TRAIN"),
    "DATALOADER.NUM_WORKERS": at_least(0, "images are loaded by the training process"),
    "DATALOADER.RARE_CLASS.TEMPERATURE": above(0),
    "DATALOADER.RARE_CLASS.MIN_PIXELS": at_least(1),
    "DATALOADER.RARE_CLASS.MIN_CROP_RATIO": at_least(0, "the first crop is taken"),
    "SOLVER.IMS_PER_BATCH": at_least(1),
    "SOLVER.MAX_ITER": at_least(1),
    "SOLVER.OPTIMIZER": one_of("ADAMW", "SGD"),
    "SOLVER.BASE_LR": above(0),
    "SOLVER.BACKBONE_MULTIPLIER": at_least(0),
    "SOLVER.MOMENTUM": within(0, 1),
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.WEIGHT_DECAY_NORM": at_least(0),
    "SOLVER.WEIGHT_DECAY_EMBED": at_least(0),
    "SOLVER.LR_SCHEDULER_NAME": one_of("WarmupMultiStepLR", "WarmupPolyLR"),
    "SOLVER.STEPS": each(at_least(0)),
    "SOLVER.GAMMA": above(0),
    "SOLVER.POLY_LR_POWER": at_least(0),
    "SOLVER.POLY_LR_CONSTANT_ENDING": within(0, 1),
    "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
    "SOLVER.WARMUP_FACTOR": within(0, 1),
    "SOLVER.WARMUP_ITERS": at_least(0, "no warm-up"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("full_model", "norm", "value"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": at_least(0, "no clipping"),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Rule("above 0, or inf", lambda p: p > 0),
    "SOLVER.CHECKPOINT_PERIOD": at_least(0, "at every fifth evaluation"),
    "SOLVER.CHECKPOINTS_KEPT": at_least(0, "all"),
    "SOLVER.AMP.DTYPE": one_of("auto", "bfloat16", "float16"),
    "TEST.EVAL_PERIOD": at_least(0, "only at the end"),
    "TEST.PROTOCOL": one_of("full_resolution", "published_short_edge"),
}

# Lists whose default is empty hold names, except these.
_NUMBERS = frozenset({"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"})

_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def typed(key: str, value: Any, where: str) -> Any:
    """Convert a value from a file or a command line to the type of its default.

    A text is read as a Python literal unless the default is a text. A whole number becomes a fraction, and lists and
    tuples become each other, where the default asks for it.

    Args:
        key: dotted name of a key in `DEFAULTS`.
        value: the value as read.
        where: source of the value for the message, such as "on the command line".

    Raises:
        UserError: the value is of another type.
    """
    default = DEFAULTS
    for part in key.split("."):
        default = default[part]
    return _typed(value, default, f"{key} {where}", float if key in _NUMBERS else str)


def check(cfg: CfgNode, sources: Mapping[str, str]) -> None:
    """Check every value of a config against `RULES`, then the relations between keys.

    Args:
        cfg: config with values of the right types.
        sources: key -> source of its value, such as "in train.yaml"; keys that are missing have their default.

    Raises:
        UserError: a value is out of range. The message names the key, the value, its source and the range.
    """
    for key, rule in RULES.items():
        value = cfg
        for part in key.split("."):
            value = value[part]
        if not rule.accepts(value):
            where = f" {sources[key]}" if key in sources else ""
            raise UserError(f"{key}{where} must be {rule.wanted}, not {value!r}.")
    _check_decoders(cfg)
    _check_sampling(cfg)


def _check_decoders(cfg: CfgNode) -> None:
    former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
    if former.HIDDEN_DIM % former.NHEADS:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM is {former.HIDDEN_DIM}; it must be a multiple of MODEL.MASK_FORMER.NHEADS, "
            f"{former.NHEADS}."
        )
    if head.PIXEL_DECODER_NAME == "MSDeformAttnPixelDecoder":
        key = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"
        for name in head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES:
            check_name(key, name, head.IN_FEATURES)
        heads = head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
        factor = math.lcm(32, heads)  # a group norm of this decoder has 32 groups
        if head.CONVS_DIM % factor:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {head.CONVS_DIM}; with the 32 groups of a norm and {heads} heads "
                f"(DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS) it must be a multiple of {factor}."
            )


def _check_sampling(cfg: CfgNode) -> None:
    source, target = cfg.DATASETS.SOURCE_FACTOR, cfg.DATASETS.TARGET_FACTOR
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler" and max(source, target) < 1:
        raise UserError(
            f"DATASETS.SOURCE_FACTOR is {source} and DATASETS.TARGET_FACTOR {target}; with "
            f"{cfg.DATALOADER.SAMPLER_TRAIN} one of them must be at least 1: multiply both, only their ratio matters."
        )


def _typed(value: Any, default: Any, where: str, entry: type) -> Any:
    kind = type(default)
    if isinstance(value, str):
        value = _literal(value, wanted=kind)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and value is None:  # published dumps have WANDB.NAME: null
        return ""
    if kind in (list, tuple) and isinstance(value, list | tuple):
        sample = default[0] if default else entry()
        return kind(_typed(item, sample, f"each entry of {where}", entry) for item in value)
    if type(value) is not kind:
        raise UserError(f"{where} must be {_KINDS[kind]}{_example(default, entry)}, not {value!r}.")
    return value


def _example(default: Any, entry: type) -> str:
    if isinstance(default, list | tuple) and not default:
        return " such as ('a', 'b')" if entry is str else ""
    return f" such as {default}" if default != "" else ""


def _literal(text: str, wanted: type) -> Any:
    if wanted is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if wanted is str and not isinstance(value, str) else value
