"""Checkpoints: what was trained, written whole or not at all, and a load that says in three lines what it did."""

import hashlib
import logging
import os
import pickle
import re
import struct
import zipfile
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


class Checkpointer(FvcoreCheckpointer):
    """fvcore's checkpointer with trained weights only, atomic files, safetensors and a short key report.

    Args:
        model: module to save and load (a DistributedDataParallel wrapper is looked through).
        save_dir: folder of ``<name>.pth`` and of ``last_checkpoint``, which names the newest.
        save_frozen: also store `frozen_keys`, as the published checkpoints do.
        random_tower: the tower was drawn at random: it is stored in any case, and expected when loading.
        complete: refuse weights that leave a parameter of the model untrained (see `load_weights`).
        keep: how many ``model_<iteration>.pth`` stay when a newer one is written; 0: all. Nothing else is deleted.
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
        keep: int = 0,
        save_to_disk: bool = True,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.logger = logging.getLogger(__name__)
        self.save_frozen = save_frozen or random_tower
        self.random_tower = random_tower
        self.complete = complete
        self.keep = keep

    def save(self, name: str, **extra: Any) -> None:
        """Write ``<save_dir>/<name>.pth``: ``model``, every checkpointable, and ``extra`` (tensors, plain values).

        What is left out of ``model`` has its `fingerprint` under ``tower``.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = dict(self.model.state_dict())
        left_out = {} if self.save_frozen else {key: state.pop(key) for key in frozen_keys(self.model)}
        content: dict[str, Any] = {"model": state, "tower": fingerprint(left_out)}
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
        outdated = self.numbered(up_to=target.name)[self.keep :] if self.keep else []
        for path in [*outdated, *Path(self.save_dir).glob("model_*.part")]:
            path.unlink(missing_ok=True)

    def numbered(self, up_to: str) -> list[Path]:
        """Every ``model_<iteration>.pth``, newest first, up to the iteration in the name `up_to` (all if it has none).

        Later ones are of another training in the same folder: they are not this one's to delete or to go on from.
        """
        numbers = {path: _iteration(path.name) for path in Path(self.save_dir).glob("model_*.pth")}
        last = _iteration(up_to)
        known = {path: n for path, n in numbers.items() if n >= 0 and not 0 <= last < n}
        return sorted(known, key=known.__getitem__, reverse=True)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make ``last_checkpoint`` name this file."""
        tag = Path(self.save_dir) / "last_checkpoint"
        part_file = tag.with_suffix(".part")
        part_file.write_text(last_filename_basename)
        part_file.replace(tag)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from the newest checkpoint of the folder; without `resume` load the weights in `path` alone.

        A checkpoint that is missing or damaged is told in a warning, and the one before it is taken. Returns what else
        the file holds. Raises `UserError` if none can be read or the one taken does not fit.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        newest = Path(self.get_checkpoint_file())
        tried = 0
        for candidate in dict.fromkeys([newest, *self.numbered(up_to=newest.name)]):
            tried += 1
            try:
                content = read_checkpoint(candidate, verify=True)
            except UserError as error:
                self.logger.warning(f"{error} The checkpoint before it is tried.")
                continue
            return self._restore(content, str(candidate))
        raise UserError(
            f"None of the checkpoints in {self.save_dir} can be read ({tried} tried, {newest.name} first): restore one "
            "from a copy, or start anew without --resume."
        )

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights and ``checkpointables`` (default: all in the file); returns what else the file holds.

        An empty path loads nothing. Raises `UserError` if the path does not exist or does not fit.
        """
        if not path:
            return {}
        check_weights(path)
        try:
            local = self.path_manager.get_local_path(path)
        except OSError as error:
            raise UserError(f"Weights not found: {path} cannot be fetched ({error}).") from error
        return self._restore(read_checkpoint(local), path, checkpointables)

    def _restore(
        self, content: dict[str, Any], source: str, checkpointables: list[str] | None = None
    ) -> dict[str, Any]:
        weights = content.pop("model")
        continues = checkpointables is None and bool(self.checkpointables)
        self._check_tower(weights, content.pop("tower", ""), source, binding=self.complete or continues)
        report = load_weights(
            self.model, weights, source=source, complete=self.complete, random_tower=self.random_tower
        )
        for line in report:
            self.logger.info(line)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in content:
                self.logger.warning(f"{source} holds no state of the {key}: it begins anew")
                continue
            try:
                self.checkpointables[key].load_state_dict(content.pop(key))
            except (ValueError, KeyError) as error:
                raise UserError(f"{source} cannot be continued with this config: {error}.") from error
        return content

    def _check_tower(self, weights: StateDict, trained_on: str, source: str, *, binding: bool) -> None:
        """Tell a head that meets another frozen tower than it was trained on: an error if `binding`, else a warning.

        Published checkpoints hold the tower, and a random one is always stored: nothing to compare there.
        """
        if not trained_on or self.random_tower:
            return
        here = {k: v for k, v in self.model.state_dict().items() if k.startswith(TOWER) and k not in weights}
        if fingerprint(here) == trained_on:
            return
        said = f"{source} was trained on other frozen CLIP weights than this model has"
        if binding:
            raise UserError(
                f"{said}: set MODEL.CLOUDS.CLIP_MODEL_NAME and CLIP_PRETRAINED_WEIGHTS as in the config.yaml beside it."
            )
        self.logger.warning(f"{said}: its head has to learn their features anew")


def _iteration(name: str) -> int:
    """The number in ``model_<iteration>.pth``; -1 for any other name."""
    match = re.fullmatch(r"model_(\d+)\.pth", name)
    return int(match[1]) if match else -1
