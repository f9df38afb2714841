"""Config keys of detectron2 that a config holds beside those of `clouds.config.defaults` if detectron2 is installed.

Three of them decide how detectron2's own classes, such as `DefaultPredictor`, read an image; `set_detectron2_keys` sets
them. All others have no effect, and `report_detectron2_keys` names those that were changed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from clouds import d2
from clouds.config.defaults import DEFAULTS, IGNORED_KEYS, IGNORED_SECTIONS

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

logger = logging.getLogger(__name__)

# Ignored key: the key that has its effect here.
_INSTEAD = {
    "INPUT.CROP.SIZE": "INPUT.CROP_SIZE",
    "INPUT.MAX_SIZE_TEST": "INPUT.TEST_SHORT_EDGE",
    "INPUT.MIN_SIZE_TEST": "INPUT.TEST_SHORT_EDGE",
    "INPUT.MIN_SIZE_TRAIN": "INPUT.INITIAL_HEIGHT and INPUT.SCALE_RANGE",
    "INPUT.RANDOM_FLIP": "INPUT.FLIP",
    "SOLVER.BASE_LR_END": "SOLVER.POLY_LR_CONSTANT_ENDING",
    "TEST.AUG.MAX_SIZE": "INPUT.TEST_MAX_PIXELS",
    "TEST.AUG.MIN_SIZES": "TEST.AUG.SCALES",
}


def set_detectron2_keys(cfg: CfgNode) -> None:
    """Set the keys from which detectron2's own classes take what CLOUDS takes from other keys, in place.

    With them, `detectron2.engine.DefaultPredictor` and detectron2's test loader resize images as
    ``INPUT.TEST_SHORT_EDGE`` says and pass them as RGB. `get_config` and `load_config` call this function; call it
    again after a change of ``INPUT.TEST_SHORT_EDGE``. A config without detectron2's keys is unchanged.

    Args:
        cfg: config that is not frozen.
    """
    for name, value in _derived(cfg).items():
        if name in cfg.INPUT:
            cfg.INPUT[name] = value


def report_detectron2_keys(cfg: CfgNode) -> None:
    """Log a warning about keys of detectron2 that were set on the config object: without effect, or contradicting it.

    Args:
        cfg: final config.
    """
    derived = _derived(cfg)
    for name, value in derived.items():
        if cfg.INPUT.get(name, value) != value:
            logger.warning(
                f"INPUT.{name} is {cfg.INPUT[name]}, but this config means {value}: detectron2's DefaultPredictor "
                "would predict otherwise. Call clouds.config.set_detectron2_keys(cfg) after a change of "
                "INPUT.TEST_SHORT_EDGE."
            )
    changed = _changed(cfg, d2.get_cfg(), DEFAULTS)
    report_ignored(key for key in changed if key.removeprefix("INPUT.") not in derived)


def report_ignored(keys: Iterable[str]) -> None:
    """Log one warning that names keys without effect; an ignored section is named as a whole.

    Args:
        keys: dotted keys; nothing is logged without any.
    """
    names = dict.fromkeys(ignored_name(key) or key for key in keys)
    if names:
        advice = (f"{name} (use {_INSTEAD[name]})" if name in _INSTEAD else name for name in names)
        logger.warning("Config keys that are not used and were ignored: %s", ", ".join(advice))


def ignored_name(key: str) -> str | None:
    """Return the name of an ignored key for the log, its section if that is ignored as a whole; None for other keys."""
    for section in IGNORED_SECTIONS:
        if f"{key}.".startswith(f"{section}."):
            return f"{section}.*"
    return key if key in IGNORED_KEYS else None


def _derived(cfg: CfgNode) -> dict[str, Any]:
    """Return the values in the section INPUT that follow from other keys."""
    return {
        "FORMAT": "RGB",
        "MIN_SIZE_TEST": cfg.INPUT.TEST_SHORT_EDGE,
        "MAX_SIZE_TEST": sys.maxsize,  # the longer edge is not limited
    }


def _changed(
    cfg: Mapping[str, Any], expected: Mapping[str, Any], own: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield the dotted keys of `expected` that are not in `own` and have another value in `cfg`."""
    for key, value in expected.items():
        if isinstance(value, dict):
            yield from _changed(cfg.get(key, {}), value, own.get(key, {}), f"{prefix}{key}.")
        elif key not in own and key in cfg and cfg[key] != value:
            yield f"{prefix}{key}"
