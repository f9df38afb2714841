"""Checkpoints: what was trained, written whole or not at all, and a load that says in three lines what it did."""

import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clouds.engine.cli import check_weights
from clouds.errors import UserError

StateDict = dict[str, Tensor]

# What torch's reader of untrusted files raises on bytes that are not a checkpoint, beside safetensors' own.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, OverflowError, SafetensorError),
)


def frozen_keys(model: nn.Module, prefix: str = "backbone.") -> set[str]:
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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read ``.safetensors`` or a torch file (tensors and plain values only: no code in the file is run).

    Returns a dict whose ``"model"`` is the state dict, beside whatever else the file holds; a bare state dict is
    accepted. Raises `UserError` if the file cannot be read or holds no weights.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
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


class Checkpointer(FvcoreCheckpointer):
    """fvcore's checkpointer with trained weights only, atomic files, safetensors and a short key report.

    Args:
        model: module to save and load (a DistributedDataParallel wrapper is looked through).
        save_dir: folder of ``<name>.pth`` and of ``last_checkpoint``, which names the newest.
        save_frozen: also store `frozen_keys`, as the published checkpoints do.
        random_tower: the tower was drawn at random: it is stored in any case, and expected when loading.
        complete: refuse weights that leave a parameter of the model untrained (see `load_weights`).
        save_to_disk: False in all processes but the main one.
        checkpointables: what else has ``state_dict``/``load_state_dict``: optimizer, scheduler.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_frozen: bool = False,
        random_tower: bool = False,
        complete: bool = False,
        save_to_disk: bool = True,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.logger = logging.getLogger(__name__)
        self.save_frozen = save_frozen or random_tower
        self.random_tower = random_tower
        self.complete = complete

    def save(self, name: str, **extra: Any) -> None:
        """Write ``<save_dir>/<name>.pth``: ``model``, every checkpointable, and ``extra`` (tensors, plain values)."""
        if not self.save_dir or not self.save_to_disk:
            return
        left_out: Iterable[str] = () if self.save_frozen else frozen_keys(self.model)
        state = self.model.state_dict()
        for key in left_out:
            del state[key]
        content = {"model": dict(state)}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {target}")
        # A killed process leaves a stray .part file, never half a checkpoint under a name that loads.
        part_file = target.with_suffix(".part")
        with part_file.open("wb") as file:
            torch.save(content | extra, file)
            file.flush()
            os.fsync(file.fileno())
        part_file.replace(target)
        self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make ``last_checkpoint`` name this file."""
        tag = Path(self.save_dir) / "last_checkpoint"
        part_file = tag.with_suffix(".part")
        part_file.write_text(last_filename_basename)
        part_file.replace(tag)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights and ``checkpointables`` (default: all in the file); returns what else the file holds.

        An empty path loads nothing. Raises `UserError` if the path does not exist or does not fit.
        """
        check_weights(path)
        self._source = path
        try:
            return super().load(path, checkpointables)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"Weights not found: {path} cannot be fetched ({error}).") from error
        except (ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be continued with this config: {error}.") from error

    def _load_file(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint.pop("model")
        report = load_weights(
            self.model, weights, source=self._source, complete=self.complete, random_tower=self.random_tower
        )
        for line in report:
            self.logger.info(line)
