"""The folder that `Segmenter.save_pretrained` writes: weights, config, description and card.

model.safetensors   weights, without the frozen tower if anybody can load it by its name
config.yaml         every config key, without names of files, folders and devices of this machine
clouds.json         classes, colors, normalization, tower, digests, version, data, scores
README.md           card
clip_<digest>.json, timm_<digest>/config.json  architecture of a tower that is in model.safetensors
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from clouds.api.card import model_card
from clouds.api.loading import CONFIG, DESCRIPTION, WEIGHTS
from clouds.config.defaults import DEFAULTS
from clouds.config.keys import leaves
from clouds.config.settings import PATHS, evaluated_sets, plain_settings
from clouds.d2 import CfgNode
from clouds.data.protocols import is_file_name
from clouds.engine.checkpointing.origin import normalization
from clouds.engine.checkpointing.weights import frozen_keys
from clouds.engine.run.metrics import read_scores, stated_protocol
from clouds.engine.run.record import code_version, read_record
from clouds.errors import UserError
from clouds.modeling.backbone import backbone_of
from clouds.modeling.backbone.base import TowerSource
from clouds.utils.atomic import atomic_folder, make_folder, write_atomically
from clouds.utils.folders import is_hidden
from clouds.utils.hashing import file_sha256
from clouds.utils.json_files import read_json
from clouds.utils.paths import user_path
from clouds.utils.tensors import tensors_sha256
from clouds.utils.torch_files import write_tensors
from clouds.version import __version__

CARD = "README.md"
TOWER_FILES = ("clip_*.json", "timm_*/config.json")
"""Patterns of the files of towers, see `TowerSource.file`."""

# Keys that a reader has to find at their defaults: what they name is on the machine of the writer.
_OF_A_MACHINE = (
    *(*PATHS, "DATASETS.MODULES", "DATALOADER.NUM_WORKERS", "WANDB.PROJECT", "WANDB.NAME"),
    *("MODEL.DEVICE", "MODEL.COMPILE", "MODEL.SEM_SEG_HEAD.DEFORMABLE_ATTENTION"),
)
# Entries of a description that are about the training, and stay if a network is saved again.
_OF_THE_TRAINING = ("commit", "train_sets", "test_sets", "iterations", "protocol", "scores")


def write_folder(
    folder: Path,
    network: nn.Module,
    cfg: CfgNode,
    *,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    iterations: int,
    name: str,
    license: str,
    include_backbone: bool,
    link_backbone: bool,
) -> None:
    """Write a network so that others can load it. The folder is complete or as it was before.

    Args:
        folder: new folder, empty folder, or folder of an earlier call.
        network: network in evaluation mode.
        cfg: its config; ``MODEL.WEIGHTS`` is the file that it was loaded from, whose folder knows its training.
        classes: names of the classes that it predicts.
        colors: RGB of each class, 0..255.
        iterations: number of iterations of its training; 0 if it is not known.
        name: id on the hub or name of the folder, for the card.
        license: license of the weights, as the hub names it.
        include_backbone: whether to store a frozen tower that anybody can load by its name, too.
        link_backbone: whether to name the folder or file of a frozen tower, relative to `folder`, instead of storing
            the tower.

    Raises:
        UserError: the folder holds other files.
        WriteError: the folder cannot be written.
    """
    _refuse_other_files(folder)
    state = network.state_dict()
    backbone = backbone_of(network)
    source = None if backbone is None else backbone.source(cfg)
    by_name = source is not None and (link_backbone or (source.is_published and not include_backbone))
    is_named = by_name and backbone is not None and backbone.reloadable
    left_out = {key: state.pop(key) for key in frozen_keys(network)} if is_named else {}
    settings = _portable_settings(network, cfg)
    with atomic_folder(folder) as part:
        write_tensors(part / WEIGHTS, state)
        if source is not None:
            settings |= dict(_named_tower(folder, source) if is_named else _stored_tower(part, source))
        description = {
            "classes": list(classes),
            "train_classes": list(getattr(network, "train_classes", classes)),
            "colors": [list(color) for color in colors],
            **normalization(network),
            "backbone": {**_names(settings, source), "stored": not is_named},
            **({"tower_sha256": tensors_sha256(left_out)} if is_named else {}),
            "weights_sha256": file_sha256(part / WEIGHTS),
            "license": license,
            "version": __version__,
            **_about_training(cfg, iterations),
        }
        write_atomically(part / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False) + "\n")
        write_atomically(part / CONFIG, _yaml(settings))
        write_atomically(part / CARD, f"{model_card(name, description, settings)}\n")


def _refuse_other_files(folder: Path) -> None:
    if not folder.is_dir() or (folder / DESCRIPTION).is_file():
        return
    others = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
    if others:
        raise UserError(
            f"{folder} holds other files, such as {others[0]}: save the network into a new folder, or into that of an "
            "earlier save_pretrained."
        )


def _stored_tower(folder: Path, source: TowerSource) -> list[tuple[str, str]]:
    """Write the architecture of a tower into a folder, and return the config keys that name it, with their values."""
    architecture = json.dumps(source.architecture, indent=2) + "\n"
    name = source.file.replace("*", hashlib.sha256(architecture.encode()).hexdigest()[:8])
    make_folder((folder / name).parent)
    write_atomically(folder / name, architecture)
    return [(source.model[0], name.removesuffix("/config.json")), (source.weights[0], "")]


def _named_tower(folder: Path, source: TowerSource) -> list[tuple[str, str]]:
    """Return the config keys that name a tower, with their values; files and folders are relative to a folder."""
    named = [(key, name, user_path(name)) for key, name in (source.model, source.weights)]
    return [(key, _relative(path, folder) if name and path.exists() else name) for key, name, path in named]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _names(settings: Mapping[str, Any], source: TowerSource | None) -> dict[str, str]:
    if source is None:
        return {"name": settings["MODEL.BACKBONE.NAME"], "pretrained": ""}
    return {"name": settings[source.model[0]], "pretrained": settings[source.weights[0]]}


def _portable_settings(network: nn.Module, cfg: CfgNode) -> dict[str, Any]:
    """Return all settings by dotted key, as they can be used on another machine."""
    defaults = plain_settings(DEFAULTS)
    pixels = {f"MODEL.{name.upper()}": values for name, values in normalization(network).items()}
    protocols = {"TEST.PROTOCOLS": [name for name in cfg.TEST.PROTOCOLS if not is_file_name(name)]}
    return defaults | plain_settings(cfg) | {key: defaults[key] for key in _OF_A_MACHINE} | pixels | protocols


def _yaml(settings: Mapping[str, Any]) -> str:
    tree: dict[str, Any] = {}
    for key, _ in leaves(DEFAULTS):
        *sections, last = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = settings[key]
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
    return text


def _about_training(cfg: CfgNode, iterations: int) -> dict[str, Any]:
    """Return the entries `_OF_THE_TRAINING` of a network, with those that the folder of its weights knows."""
    weights = Path(cfg.MODEL.WEIGHTS)
    known: dict[str, Any] = {
        "commit": code_version(),
        "train_sets": list(cfg.DATASETS.TRAIN),
        "test_sets": list(evaluated_sets(cfg)),
        "protocol": stated_protocol(cfg),
    }
    if weights.name == WEIGHTS and (weights.parent / DESCRIPTION).is_file():
        earlier = read_json(weights.parent / DESCRIPTION, dict, "save the network again")
        return known | {name: earlier[name] for name in _OF_THE_TRAINING if name in earlier}
    trainings = [entry for entry in read_record(weights.parent) if entry.get("run")]
    if trainings:
        known["commit"] = trainings[-1]["code"].get("commit", known["commit"])
    if iterations:
        scores = read_scores(weights.parent / "metrics.json", iterations)
        known |= {"iterations": iterations, **({"scores": scores} if scores else {})}
    return known
