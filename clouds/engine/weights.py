"""State dicts: reading them from files, what in them is frozen, and a load that says in three lines what it did."""

import hashlib
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clouds.errors import UserError

StateDict = dict[str, Tensor]

# What torch's reader of untrusted files raises on bytes that are not a checkpoint, beside safetensors' own.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, OverflowError, SafetensorError),
)

TOWER = "backbone."  # the prefix of the CLIP towers' keys


def frozen_keys(model: nn.Module, prefix: str = TOWER) -> set[str]:
    """Keys of ``model.state_dict()`` below ``prefix`` that training cannot change.

    These are parameters that take no gradient, and buffers (say, running statistics) of modules that own parameters
    but no trainable one. A module with buffers alone is frozen only where the whole tower is.
    """
    tower_is_frozen = not any(p.requires_grad for name, p in model.named_parameters() if name.startswith(prefix))
    keys: set[str] = set()
    for module_name, module in model.named_modules():
        own = list(module.named_parameters(recurse=False))
        keeps_buffers = any(p.requires_grad for _, p in own) if own else not tower_is_frozen
        names = [name for name, parameter in own if not parameter.requires_grad]
        if not keeps_buffers:
            names += [name for name, _ in module.named_buffers(recurse=False)]
        keys.update(f"{module_name}.{name}" for name in names if f"{module_name}.{name}".startswith(prefix))
    return keys & model.state_dict().keys()


def fingerprint(weights: StateDict, samples: int = 1024) -> str:
    """16 hex digits that tell these weights from those of another training; "" for no weights.

    Names, shapes and about `samples` values of each tensor, evenly spread, go into it: two trainings agree on hardly
    any value, and reading them all would take seconds for a tower of a gigabyte.
    """
    if not weights:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for key, tensor in sorted(weights.items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        values = tensor.detach().flatten()
        digest.update(values[:: max(1, len(values) // samples)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: str | Path, *, verify: bool = False) -> dict[str, Any]:
    """Read ``.safetensors`` or a torch file (tensors and plain values only: no code in the file is run).

    Returns a dict whose ``"model"`` is the state dict, beside whatever else the file holds; a bare state dict is
    accepted. Raises `UserError` if the file cannot be read or holds no weights. With ``verify`` the checksums in a
    torch file count too; torch itself takes any numbers that lie in the right places.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if verify:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        raise zipfile.BadZipFile("a checksum differs")
    except _DAMAGED as error:
        # torch's reason is a page long; it is in the chain for whoever wants it.
        raise UserError(
            f"Cannot read weights from {path}: the file is damaged, or holds more than tensors and plain values "
            f"({type(error).__name__})."
        ) from error
    if isinstance(content, dict) and _is_state_dict(content.get("model")):
        return content
    if _is_state_dict(content):
        return {"model": content}
    raise UserError(f"{path} holds no model weights: neither a state dict nor a dict with one under 'model'.")


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(value, Tensor) for value in content.values())


def load_weights(
    model: nn.Module, weights: StateDict, *, source: str, complete: bool = False, random_tower: bool = False
) -> list[str]:
    """Copy ``weights`` into ``model`` and report in three lines: loaded, missing, unexpected.

    Args:
        model: changed in place.
        weights: key -> tensor; a prefix ``module.`` is taken off.
        source: where they come from, for the report.
        complete: demand every parameter; for evaluation, where a randomly initialised rest quietly spoils the numbers.
        random_tower: the `frozen_keys` have no file of their own, so they are expected like all others. Otherwise a
            tower that is not among the weights is as it should be.

    Raises:
        UserError: weights of another model; ``model`` is untouched.
    """
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    own, tower = model.state_dict(), frozen_keys(model)
    frozen = set() if random_tower else tower
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
    if random_tower and known and tower and tower.isdisjoint(known):
        raise UserError(
            f"{source} holds no frozen CLIP tower, and MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS is empty: set it to the "
            "CLIP weights that the checkpoint was trained with."
        )
    if 2 * len(missing) > len(expected):
        raise UserError(
            f"{source} is a checkpoint of another model: it has {len(expected) - len(missing)} of the "
            f"{len(expected)} tensors this model trains; {advice}."
        )
    absent = [name for name, _ in model.named_parameters() if name in missing]
    if complete and absent:
        raise UserError(f"{source} lacks {_some(absent)} of this model, which cannot be left untrained; {advice}.")

    model.load_state_dict(known, strict=False)
    at_home = len(frozen - weights.keys())
    aside = f" ({at_home} of the frozen tower are not in the file and stay as built)" if at_home else ""
    return [
        f"Loaded {len(known)} tensors from {source}{aside}",
        f"Missing: {_some(missing)}",
        f"Unexpected: {_some(unexpected)}",
    ]


def _some(keys: list[str], most: int = 3) -> str:
    if not keys:
        return "none"
    return f"{len(keys)} ({', '.join(keys[:most])}{', ...' if len(keys) > most else ''})"
