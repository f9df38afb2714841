"""Checkpoints: what was trained, written whole or not at all, and how a run goes on from them."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from clouds.config import check_weights
from clouds.d2 import CfgNode, comm
from clouds.engine.weights import TOWER, StateDict, fingerprint, frozen_keys, load_weights, read_checkpoint
from clouds.errors import UserError
from clouds.modeling.backbone.clip import has_own_weights
from clouds.utils.atomic import atomic_file

logger = logging.getLogger(__name__)


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
        self.logger = logger
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
        with atomic_file(target) as part_file, part_file.open("wb") as file:
            torch.save(content | extra, file)
            file.flush()
            os.fsync(file.fileno())
        self.tag_last_checkpoint(target.name)
        outdated = self.numbered(up_to=target.name)[self.keep :] if self.keep else []
        stray = (path for name in ("model_*", "last_checkpoint*") for path in Path(self.save_dir).glob(f"{name}.part"))
        for path in [*outdated, *stray]:
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
        with atomic_file(Path(self.save_dir) / "last_checkpoint") as part_file:
            part_file.write_text(last_filename_basename)

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


def build_checkpointer(cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> Checkpointer:
    """What training saves to ``OUTPUT_DIR`` and goes on from."""
    return Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        save_frozen=cfg.SOLVER.CHECKPOINT_FROZEN,
        random_tower=tower_is_random(cfg),
        keep=cfg.SOLVER.CHECKPOINTS_KEPT,
        save_to_disk=comm.is_main_process(),
        **checkpointables,
    )


def load_for_inference(cfg: CfgNode, model: nn.Module, *, resume: bool = False) -> dict[str, Any]:
    """Load ``MODEL.WEIGHTS`` (or with ``resume`` the newest checkpoint in ``OUTPUT_DIR``) completely into ``model``.

    Returns what else the file holds. Empty ``MODEL.WEIGHTS`` leave the head untrained, which is said in a warning.
    """
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, random_tower=tower_is_random(cfg), complete=True)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        logger.warning("MODEL.WEIGHTS is empty: the head is untrained and its predictions mean nothing")
        return {}
    return checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)


def tower_is_random(cfg: CfgNode) -> bool:
    """Whether the CLIP towers are drawn at random, so that no file but a checkpoint of ours can bring them back."""
    clip = cfg.MODEL.CLOUDS
    return not clip.CLIP_PRETRAINED_WEIGHTS and not has_own_weights(clip.CLIP_MODEL_NAME)


def _iteration(name: str) -> int:
    """The number in ``model_<iteration>.pth``; -1 for any other name."""
    match = re.fullmatch(r"model_(\d+)\.pth", name)
    return int(match[1]) if match else -1
