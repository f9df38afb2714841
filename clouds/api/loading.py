"""Finding the files of a trained network, and building it from them."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clouds.config import load_config
from clouds.config.keys import value_of
from clouds.config.settings import TOWERS
from clouds.d2 import CfgNode
from clouds.engine.checkpointing.entries import ENTRIES, find_wrong_entry
from clouds.engine.checkpointing.files import numbered
from clouds.engine.checkpointing.weights import frozen_keys, read_checkpoint, some_keys
from clouds.engine.predictor import Trained, load_network
from clouds.engine.run.record import current_run
from clouds.engine.setup import resolve_device
from clouds.errors import UserError
from clouds.utils.downloads import local_file
from clouds.utils.json_files import read_json
from clouds.utils.paths import user_path
from clouds.utils.torch_files import WEIGHT_SUFFIXES
from clouds.utils.values import is_integer

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS, DESCRIPTION = "config.yaml", "model.safetensors", "clouds.json"
"""Files of a folder that `Segmenter.save_pretrained` writes."""


def _are_colors(value: Any) -> bool:
    are_triples = isinstance(value, list) and all(isinstance(each, list) and len(each) == 3 for each in value)
    return are_triples and all(is_integer(channel, high=255) for color in value for channel in color)


_ENTRIES = {
    **{name: ENTRIES[name] for name in ("classes", "pixel_mean", "pixel_std", "tower_sha256")},
    "train_classes": ENTRIES["classes"],
    "weights_sha256": ENTRIES["tower_sha256"],
    "colors": (_are_colors, "a list of colors, each three integers from 0 to 255"),
}
"""Entries of `DESCRIPTION` that a network depends on."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def is_hub_id(source: str | Path) -> bool:
    """Return whether a network is named by its id on a hub, owner/name, and by no file or folder."""
    text = str(source)
    is_file = Path(text).suffix in (*WEIGHT_SUFFIXES, ".yaml", ".json") or user_path(text).exists()
    return isinstance(source, str) and _HUB_ID.fullmatch(text) is not None and not is_file


@dataclass(frozen=True)
class Files:
    """Files of a trained network.

    Attributes:
        weights: checkpoint or `WEIGHTS`.
        config: `CONFIG` beside the weights, or the newest config of the run; None if there is none.
        description: content of `DESCRIPTION`; {} without this file.
    """

    weights: Path
    config: Path | None
    description: dict[str, Any]


def find_files(source: str | Path) -> Files:
    """Find the files of a network.

    Args:
        source: checkpoint, URL of one, output folder of a run, or folder of `Segmenter.save_pretrained`.

    Raises:
        UserError: there is no such file or folder, or the folder holds no weights.
    """
    path = local_file(str(source))
    if path.is_dir():
        return Files(_weights_in(path), _config_in(path), _description_in(path))
    if not path.is_file():
        hint = " (the id of a hub is owner/name)" if not _HUB_ID.fullmatch(str(source)) else ""
        raise UserError(
            f"There is no network at {source}{hint}: give a checkpoint, the output folder of a training, or a folder "
            "that save_pretrained wrote."
        )
    return Files(path, _config_in(path.parent), _description_in(path.parent) if path.name == WEIGHTS else {})


def read_network_config(
    files: Files, config: str | Path | CfgNode | None, options: Sequence[Any], device: str | torch.device
) -> CfgNode:
    """Read the config of a network and choose its device.

    Args:
        files: files of the network.
        config: YAML file or config that replaces the one beside the weights.
        options: alternating config keys and values.
        device: device of torch; "auto" for ``MODEL.DEVICE`` of `options`, by default a GPU if there is one.

    Returns:
        A frozen config, whose ``MODEL.WEIGHTS`` is the file of the weights.

    Raises:
        UserError: there is no config, a key or a value is wrong, or there is no such device.
    """
    keys = options[::2]
    wrong = {"MODEL.WEIGHTS": "source"} if device == "auto" else {"MODEL.WEIGHTS": "source", "MODEL.DEVICE": "device"}
    for key, argument in wrong.items():
        if key in keys:
            raise UserError(f"options has {key}, which would have no effect: give its value as {argument}.")
    config = config if config is not None else files.config
    if config is None:
        raise UserError(
            f"There is no {CONFIG} beside {files.weights}: give the YAML file that the network was trained with as "
            "config."
        )
    cfg = load_config(config, [*map(str, options)])
    for key in TOWERS if files.description else ():
        name = value_of(cfg, key)
        if name and (tower := files.weights.parent / name).exists():
            cfg.merge_from_list([key, str(tower)])
    cfg.MODEL.WEIGHTS = str(files.weights)
    if "MODEL.DEVICE" not in keys:
        cfg.MODEL.DEVICE = str(device)
    resolve_device(cfg)
    _find_tower(cfg, files)
    cfg.freeze()
    return cfg


def _find_tower(cfg: CfgNode, files: Files) -> None:
    """Complete file names of the tower that are relative to the folder in which the run was started."""
    run = current_run(files.weights.parent)
    if run is None:
        return
    for key in TOWERS:
        name = value_of(cfg, key)
        path = Path(run.folder) / name
        if name and not Path(name).exists() and path.is_absolute() and path.exists():
            cfg.merge_from_list([key, str(path)])


def load_trained(files: Files, cfg: CfgNode) -> Trained:
    """Build a network and load its weights.

    The entries of `DESCRIPTION` take the place of those of a checkpoint: ``classes``, ``train_classes``,
    ``pixel_mean``, ``pixel_std`` and ``tower_sha256``, see `clouds.engine.checkpointing.entries`. With it, no data set
    of the config is looked at, and no module that the config names is imported.

    Raises:
        UserError: the weights cannot be read, or are those of another network.
    """
    described = files.description
    content = read_checkpoint(files.weights, described.get("weights_sha256", ""))
    if not described:
        return load_network(cfg, content, str(files.weights))
    stored = set(content["model"])
    entries: dict[str, Any] = {
        name: described[name] for name in ("pixel_mean", "pixel_std", "tower_sha256") if name in described
    }
    classes = described["classes"]
    content = {**content, **entries, "classes": described.get("train_classes", classes)}
    trained = load_network(cfg, content, str(files.weights), classes=classes)
    _check_keys(stored, trained.network, files.weights)
    colors = described.get("colors")
    return dataclasses.replace(trained, colors=tuple((r, g, b) for r, g, b in colors)) if colors else trained


def _check_keys(stored: set[str], network: nn.Module, source: Path) -> None:
    """Check that a file holds all weights of a network and no others; it may hold the frozen tower or not."""
    own, tower = network.state_dict().keys(), frozen_keys(network)
    expected = own if stored & tower else own - tower
    if stored != expected:
        missing, unexpected = (some_keys(sorted(keys)) for keys in (expected - stored, stored - expected))
        raise UserError(
            f"{source} does not fit the network of its config (missing: {missing}; unexpected: {unexpected}): save the "
            "network again, or copy its folder as a whole."
        )


def _weights_in(folder: Path) -> Path:
    final = [path for path in (folder / WEIGHTS, folder / "model_final.pth") if path.is_file()]
    found = [*final, *numbered(folder, up_to="")]
    if not found:
        raise UserError(
            f"The folder {folder} holds no weights, neither {WEIGHTS} nor model_final.pth nor model_<iteration>.pth: "
            "give the folder of a training that has written a checkpoint, or a checkpoint."
        )
    return found[0]


def _config_in(folder: Path) -> Path | None:
    run = current_run(folder)
    names = [run.config] if run else []
    return next((path for name in [*names, CONFIG] if (path := folder / name).is_file()), None)


def _description_in(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        return {}
    remedy = "save the network again"
    content: dict[str, Any] = read_json(path, dict, remedy)
    if "classes" not in content:
        raise UserError(f"{path} names no classes: {remedy}.")
    if wrong := find_wrong_entry(content, _ENTRIES):
        raise UserError(f"{path} is damaged, {wrong}: {remedy}.")
    return content
