"""Weights of other projects in the names of this one: CLOUDS as published, FC-CLIP, Mask2Former, detectron2.

* CLOUDS has the keys of this project; ``sem_seg_head_ema.*`` is the teacher, and ``sam.*`` is SAM.
* FC-CLIP has those of this project with the text head.
* Mask2Former has them in its head. Files of its earlier version name ``query_feat`` ``static_query``, and some have the
  pixel decoder directly below ``sem_seg_head``. Its backbone is no CLIP tower.
* detectron2's own networks have backbones that are no CLIP towers, such as ``backbone.stem.*``.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from clouds.d2 import CfgNode, build_model
from clouds.data.datasets.catalog import register_datasets
from clouds.engine.checkpointing.files import write_checkpoint
from clouds.engine.checkpointing.weights import frozen_keys, has_reloadable_backbone, some_keys
from clouds.errors import UserError
from clouds.modeling.frozen import BACKBONE
from clouds.utils.downloads import local_file
from clouds.utils.open_clip import without_warnings
from clouds.utils.tensors import StateDict, find_unusable
from clouds.utils.torch_files import read_tensors, write_tensors

SUFFIXES = (".safetensors", ".pth")

# Entries of a file that hold the state dict, and those that hold its moving average.
_NESTED = ("model", "state_dict", "model_state", "model_state_dict", "module")
_NESTED_EMA = ("model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema_state", "ema")
# Parts of a key that wrappers add: data-parallel training, Lightning, `torch.compile` (anywhere in the key).
_WRAPPERS = ("module", "model")
_COMPILED = "_orig_mod"
_HEAD, _HEAD_EMA = "sem_seg_head.", "sem_seg_head_ema."
_OF_HEAD = ("pixel_decoder.", "predictor.")


class Conversion(NamedTuple):
    """Weights of a file in the names of a model.

    Attributes:
        weights: those that the model has.
        missing: keys of the model that neither the file has nor the backbone loads from its own source.
        unexpected: keys of the file, in the names of the model, that the model does not have in this shape.
        report: three lines, and a fourth if the head belongs to another backbone.
    """

    weights: StateDict
    missing: list[str]
    unexpected: list[str]
    report: list[str]


def convert_file(source: str, target: Path, cfg: CfgNode, *, ema: bool = False) -> Conversion:
    """Write the weights of another project's file as a checkpoint of this one. No code of the file runs.

    Args:
        source: path or URL of a ``.pth``, ``.pt``, ``.bin``, ``.safetensors`` or ``.pkl`` file.
        target: path of the checkpoint, ``.safetensors`` or ``.pth``.
        cfg: config of the model.
        ema: whether to take the moving average of the weights, which the file must have.

    Raises:
        UserError: the file cannot be read, holds more than tensors, arrays and plain values, or does not fit.
        WriteError: the checkpoint cannot be written.
    """
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target} has to end in {' or '.join(SUFFIXES)}, the formats of a checkpoint.")
    path = local_file(source)
    if target.exists() and path.exists() and target.samefile(path):
        raise UserError(f"{target} is the file to convert: give another name.")
    try:
        content = read_tensors(path)
    except ValueError as error:
        raise UserError(
            f"Cannot read weights from {source}: the file is missing or damaged, or holds more than tensors, arrays "
            f"and plain values ({error})."
        ) from error
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    result = converted(find_state_dict(content, source, ema=ema), _model_without_values(cfg), source)
    if target.suffix == ".pth":
        write_checkpoint({"model": result.weights}, target)
    else:
        write_tensors(target, result.weights)
    return result


def _model_without_values(cfg: CfgNode) -> nn.Module:
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"  # names and shapes are sufficient
    with without_warnings():
        return build_model(cfg)


def find_state_dict(content: Any, source: str, *, ema: bool = False) -> StateDict:
    """Return the tensors of a file by key; other entries of its state dict are left out.

    Args:
        content: content of the file.
        source: name of the file, for messages.
        ema: whether to return the moving average of the weights.

    Raises:
        UserError: the file has no state dict, or no moving average.
    """
    found, averaged = content, False
    while isinstance(found, dict):
        names = (*_NESTED_EMA, *_NESTED) if ema else _NESTED
        name = next((name for name in names if isinstance(found.get(name), dict)), None)
        if name is None:
            break
        found, averaged = found[name], averaged or name in _NESTED_EMA
    items = found.items() if isinstance(found, dict) else ()
    tensors = {key: value for key, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{source} holds no model weights: neither a state dict nor a dict with one.")
    if problem := find_unusable(tensors):
        raise UserError(f"{source} cannot be used: {problem}; take another file.")
    return _moving_average(tensors, source) if ema and not averaged else tensors


def _moving_average(tensors: StateDict, source: str) -> StateDict:
    """Return a state dict with the weights of a teacher in the place of those of its student."""
    prefixes = {f"{name}.": "" for name in _NESTED_EMA} | {_HEAD_EMA: _HEAD}
    averages = {
        f"{own}{key.removeprefix(prefix)}": value
        for prefix, own in prefixes.items()
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    if not averages:
        raise UserError(f"{source} holds no moving average of the weights: convert it without --ema.")
    return {key: value for key, value in tensors.items() if not key.startswith(tuple(prefixes))} | averages


def own_key(key: str, own: Collection[str]) -> str:
    """Return the name that a tensor of another project has in this one.

    Args:
        key: key in the file.
        own: keys of the model; these stay as they are.
    """
    if key in own:
        return key
    parts = [part for part in key.split(".") if part != _COMPILED]
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    name = ".".join(parts).replace("predictor.static_query.", "predictor.query_feat.")
    rest = name.removeprefix(_HEAD)
    return f"{_HEAD}pixel_decoder.{rest}" if name.startswith(_HEAD) and not rest.startswith(_OF_HEAD) else name


def converted(tensors: Mapping[str, Tensor], model: nn.Module, source: str) -> Conversion:
    """Choose the tensors that a model has, by their names in it and by their shapes.

    Args:
        tensors: weights of the file by its keys.
        model: model whose weights they become; it may be on the device "meta".
        source: name of the file, for messages.

    Raises:
        UserError: the model has none of them, or two have the name of one.
    """
    own = model.state_dict()
    names: dict[str, str] = {}
    for key in tensors:
        name = own_key(key, own)
        if name in names:
            raise UserError(f"{source} has {name!r} twice, as {names[name]!r} and as {key!r}: remove one of them.")
        names[name] = key
    found = {name: tensors[key] for name, key in names.items()}
    weights = {
        name: each.reshape(own[name].shape) for name, each in found.items() if name in own and _fits(each, own[name])
    }
    if not weights:
        raise UserError(
            f"{source} has {len(tensors)} tensors, and none is one of this model: give a file of CLOUDS, FC-CLIP or "
            "Mask2Former, and the config of its network as --config-file."
        )
    reloaded = frozen_keys(model) - weights.keys() if has_reloadable_backbone(model) else set()
    missing = [name for name in own if name not in weights and name not in reloaded]
    unexpected = [name for name in found if name not in weights]
    return Conversion(weights, missing, unexpected, _report(own, found, weights, reloaded, missing, unexpected))


def _fits(tensor: Tensor, own: Tensor) -> bool:
    shapes = tensor.shape == own.shape or tensor.numel() == own.numel() == 1  # a number may be an array of one number
    return shapes and tensor.is_floating_point() == own.is_floating_point()


def _report(
    own: StateDict,
    found: StateDict,
    weights: StateDict,
    reloaded: Collection[str],
    missing: list[str],
    unexpected: list[str],
) -> list[str]:
    aside = f"; the backbone loads {len(reloaded)} others from its own source" if reloaded else ""
    misfits = [f"{name} {tuple(found[name].shape)}, not {tuple(own[name].shape)}" for name in unexpected if name in own]
    shapes = f"; of another shape: {some_keys(misfits)}" if misfits else ""
    lines = [
        f"Matched: {len(weights)} of the {len(own)} tensors of the model{aside}",
        f"Missing: {some_keys(missing)}",
        f"Unexpected: {some_keys(unexpected)}{shapes}",
    ]
    if any(name.startswith(BACKBONE) for name in unexpected) and not any(name.startswith(BACKBONE) for name in weights):
        lines.append("The head was trained on another backbone: it has to learn the features of this one")
    return lines
