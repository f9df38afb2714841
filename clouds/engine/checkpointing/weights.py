"""State dicts: reading them from files, finding what training cannot change, and loading with a short report."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clouds.engine.checkpointing.entries import find_wrong_entry
from clouds.errors import UserError
from clouds.modeling.backbone import backbone_of
from clouds.modeling.frozen import BACKBONE, frozen_names
from clouds.utils.tensors import StateDict, exact_sha256, find_unusable
from clouds.utils.torch_files import read_tensors

_SHOWN = 3  # keys in a message


def frozen_keys(model: nn.Module, prefix: str = BACKBONE) -> set[str]:
    """Return the keys of ``model.state_dict()`` below `prefix` that training cannot change, see `frozen_names`."""
    return frozen_names(model, prefix) & model.state_dict().keys()


def has_reloadable_backbone(model: nn.Module) -> bool:
    """Return whether the frozen backbone of a model can be loaded again from its own source.

    An architecture without a `SegmentationBackbone` as its attribute ``backbone`` has no such source: its checkpoints
    hold the whole model.
    """
    backbone = backbone_of(model)
    return backbone is not None and backbone.reloadable


def trained_sha256(model: nn.Module, frozen: Collection[str] | None = None) -> str:
    """Return the digest of the weights of a model without its frozen ones, see `exact_sha256`.

    Args:
        model: the model, or a moving average of it.
        frozen: keys of the frozen weights; default: those of `frozen_keys`.
    """
    left_out = frozen_keys(model) if frozen is None else frozen
    return exact_sha256({key: value for key, value in model.state_dict().items() if key not in left_out})


def sampled_digest(weights: StateDict, samples: int = 1024) -> str:
    """Return the digest of a frozen backbone that older checkpoints hold: 16 hexadecimal digits; "" for no weights.

    It covers names, shapes and about `samples` evenly spread values of each tensor, see `tensors_sha256` for all.
    """
    if not weights:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for key, tensor in sorted(weights.items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        values = tensor.detach().flatten()
        digest.update(values[:: max(1, len(values) // samples)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: str | Path, sha256: str = "") -> dict[str, Any]:
    """Read a checkpoint: a ``.safetensors`` file or a torch file with tensors and plain values only.

    The file is compared with its checksums, see `clouds.utils.torch_files`.

    Args:
        path: path of the file.
        sha256: digest that the file must have; "" for none.

    Returns:
        A dict with the state dict under ``"model"`` and everything else that the file holds. The file may also hold a
        state dict alone.

    Raises:
        UserError: the file cannot be read, holds no weights or weights that are not finite, or one of its other entries
            (`clouds.engine.checkpointing.entries`) has a wrong type.
    """
    path = Path(path)
    try:
        content = read_tensors(path, sha256)
    except ValueError as error:
        raise UserError(
            f"Cannot read weights from {path}: the file is damaged, or holds more than tensors and plain values "
            f"({error})."
        ) from error
    if not (isinstance(content, dict) and _is_state_dict(content.get("model"))):
        if not _is_state_dict(content):
            raise UserError(
                f"{path} holds no model weights, neither a state dict nor a dict with one under 'model': "
                "`clouds convert` makes a checkpoint of a file of another project."
            )
        content = {"model": content}
    problem = find_unusable(content["model"]) or find_wrong_entry(content)
    if problem:
        raise UserError(f"{path} cannot be used: {problem}; take another checkpoint.")
    # Data-parallel training adds the prefix.
    return {**content, "model": {key.removeprefix("module."): value for key, value in content["model"].items()}}


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(value, Tensor) for value in content.values())


def load_weights(
    model: nn.Module, weights: StateDict, *, source: str, complete: bool = False, reloadable: bool = True
) -> list[str]:
    """Copy weights into a model.

    Args:
        model: model to change in place.
        weights: tensors by key.
        source: name of their file, for messages.
        complete: whether every parameter must be among the weights, as for evaluation.
        reloadable: whether the backbone loads its frozen weights from their own source. If so, `weights` need not hold
            the `frozen_keys`.

    Returns:
        Three lines: loaded, missing and unexpected keys.

    Raises:
        UserError: the weights belong to another model; the model is unchanged.
    """
    own, tower = model.state_dict(), frozen_keys(model)
    frozen = tower if reloadable else set()
    expected = own.keys() - frozen
    missing = [key for key in own if key in expected and key not in weights]
    unexpected = [key for key in weights if key not in own]
    known = {key: value for key, value in weights.items() if key in own}

    advice = "check MODEL.* against the config it was trained with"
    for key, value in known.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"{source} is a checkpoint of another model: '{key}' is {tuple(value.shape)} in the file and "
                f"{tuple(own[key].shape)} in the model; {advice}."
            )
        if value.is_floating_point() != own[key].is_floating_point():
            raise UserError(
                f"{source} is a checkpoint of another model: '{key}' is {value.dtype} in the file and "
                f"{own[key].dtype} in the model; {advice}."
            )
    if not reloadable and known and tower and tower.isdisjoint(known):
        raise UserError(
            f"{source} holds no frozen backbone weights, and this model's backbone was initialized at random: set "
            "MODEL.* as in the config it was trained with, which names their file."
        )
    if 2 * len(missing) > len(expected):
        raise UserError(
            f"{source} is a checkpoint of another model: it has {len(expected) - len(missing)} of the "
            f"{len(expected)} tensors this model trains; {advice}."
        )
    absent = [name for name, _ in model.named_parameters() if name in missing]
    if complete and absent:
        raise UserError(f"{source} lacks {some_keys(absent)} of this model, which cannot be left untrained; {advice}.")

    if complete and (extra := _of_an_adapter(unexpected, own)):
        raise UserError(
            f"{source} has {some_keys(extra)} of an adapter that this model lacks: set MODEL.ADAPTER as in the config "
            "it was trained with."
        )

    model.load_state_dict(known, strict=False)
    kept = len(frozen - weights.keys())
    aside = f" ({kept} of the frozen backbone are not in the file and keep their values)" if kept else ""
    return [
        f"Loaded {len(known)} tensors from {source}{aside}",
        f"Missing: {some_keys(missing)}",
        f"Unexpected: {some_keys(unexpected)}",
    ]


def _of_an_adapter(unexpected: Sequence[str], own: Collection[str]) -> list[str]:
    """Return the keys of an adapter's own tensors, and of those it adds to layers that the backbone has."""
    layers = {key.rpartition(".")[0] for key in own}
    return [
        key
        for key in unexpected
        if key.startswith(f"{BACKBONE}adapter.") or (key.startswith(BACKBONE) and key.rpartition(".")[0] in layers)
    ]


def some_keys(keys: Sequence[str]) -> str:
    """Return the number of keys and the first of them, for a message; "none" for no keys."""
    if not keys:
        return "none"
    return f"{len(keys)} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
