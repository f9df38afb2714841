"""Settings of a run as plain values: stored in its checkpoints, and compared when the run is resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds.config.defaults import DEFAULTS
from clouds.config.keys import leaves, value_of
from clouds.utils.yaml_files import read_yaml

if TYPE_CHECKING:
    from clouds.d2 import CfgNode

Settings = dict[str, Any]
"""Dotted config key -> number, text, boolean, or list of these."""

TOWERS = (
    *("MODEL.CLOUDS.CLIP_MODEL_NAME", "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS"),
    *("MODEL.BACKBONE.TIMM.MODEL_NAME", "MODEL.BACKBONE.TIMM.WEIGHTS"),
)
"""Keys whose values name towers and their weights."""

PATHS = (
    *("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.ADAPTER.WEIGHTS", "DATASETS.CUSTOM", *TOWERS),
    *("MODEL.CLOUDS.SAM.WEIGHTS", "MODEL.CLOUDS.SAM.CACHE_DIR"),
)
"""Keys whose values are, or may be, names of files or folders."""

FREE_ON_RESUME = (
    *("OUTPUT_DIR", "MODEL.DEVICE", "MODEL.COMPILE", "MODEL.BACKBONE.CHECKPOINTING"),
    *("SOLVER.MAX_ITER", "SOLVER.ACCUMULATION"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.ON_ERROR"),
    *("FLOAT32_PRECISION", "CUDNN_BENCHMARK", "DETERMINISTIC"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINT_MINUTES", "SOLVER.CHECKPOINTS_KEPT", "SOLVER.CHECKPOINT_FROZEN"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION",
    *("MODEL.SAVE_PSEUDO_LABELS", "MODEL.CLOUDS.PANEL_PERIOD"),
    *("MODEL.CLOUDS.SAM.CACHE_DIR", "MODEL.CLOUDS.SAM.CACHE_SIZE", "MODEL.CLOUDS.SAM.PROMPTS_AT_ONCE"),
    *("TEST", "WANDB"),
)
"""Keys and sections that a resumed run may change: the length of the training, the machine, and what is written."""

_KEYS = tuple(key for key, _ in leaves(DEFAULTS))


def evaluated_sets(cfg: CfgNode) -> tuple[str, ...]:
    """Return the names of the data sets that an evaluation scores: ``DATASETS.TEST``, then ``TEST.SELECT_ON``."""
    return tuple(dict.fromkeys([*cfg.DATASETS.TEST, *filter(None, [cfg.TEST.SELECT_ON])]))


def plain_settings(tree: Mapping[str, Any]) -> Settings:
    """Return the settings in a config or in the content of a YAML file; keys without a default are left out.

    With detectron2 a config also has detectron2's keys, which are not used.
    """
    return {key: _plain(value) for key in _KEYS if (value := _lookup(tree, key)) is not None}


def read_settings(file: Path) -> Settings:
    """Return the settings in a recorded config.

    Raises:
        UserError: the file is not YAML.
    """
    content = read_yaml(file, "The recorded config")
    return plain_settings(content) if isinstance(content, dict) else {}


def changed_settings(old: Settings, new: Settings, old_folder: Path) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ and that a resumed run may not change, see `FREE_ON_RESUME`.

    Keys that only one version of this package knows are not compared. Names of files are equal if they name the same
    file. A negative seed stands for any seed.

    Args:
        old: settings of the run.
        new: settings of the start that resumes it.
        old_folder: working folder of the run, to which its relative paths refer.

    Returns:
        Key -> old and new value.
    """
    return {
        key: (old[key], new[key])
        for key in _KEYS
        if key in old and key in new and not _is_free(key) and not _agree(key, old[key], new[key], old_folder)
    }


def _is_free(key: str) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in FREE_ON_RESUME)


def _agree(key: str, old: Any, new: Any, old_folder: Path) -> bool:
    if old == new or (key == "SEED" and new < 0):
        return True
    return key in PATHS and _resolved(old, old_folder) == _resolved(new, Path())


def _resolved(value: str | list[str], folder: Path) -> list[str]:
    names = [value] if isinstance(value, str) else value
    return [os.path.realpath(folder / name) if name else "" for name in names]


def _lookup(tree: Any, key: str) -> Any:
    """Return the value of a dotted key; None if there is none."""
    try:
        return value_of(tree, key)
    except (KeyError, TypeError):
        return None


def holds(tree: Mapping[str, Any], key: str, value: Any) -> bool:
    """Return whether a dotted key has a value in a config; a list and a tuple of equal items are equal."""
    return bool(_plain(_lookup(tree, key)) == _plain(value))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
