"""Checkpoints: trained weights and training state, written atomically, and how a run resumes from them."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from clouds.clouds import class_names
from clouds.config import check_weights
from clouds.config.settings import Settings, plain_settings
from clouds.d2 import CfgNode, comm
from clouds.engine.checkpointing.origin import Origin, check_test_classes
from clouds.engine.checkpointing.states import fitted_state
from clouds.engine.checkpointing.weights import frozen_keys, load_weights, read_checkpoint
from clouds.engine.run.record import Run, shared_run
from clouds.errors import UserError
from clouds.modeling.backbone import SegmentationBackbone
from clouds.utils.atomic import atomic_file, write_atomically
from clouds.utils.downloads import local_file

logger = logging.getLogger(__name__)

_LONGEST_NAME = 255  # bytes, of a file


class Checkpointer(FvcoreCheckpointer):
    """fvcore's checkpointer for trained weights only, with atomic files, safetensors and a short report of the keys.

    Args:
        model: module to save and load; of a DistributedDataParallel module, the wrapped one.
        save_dir: folder of ``<name>.pth`` and of ``last_checkpoint``, which names the newest checkpoint.
        save_frozen: whether to store the `frozen_keys`, as the published checkpoints do.
        reloadable: whether the backbone loads its frozen weights from their own source (see `SegmentationBackbone`).
            If not, checkpoints always hold them.
        complete: whether the model is only evaluated: weights that leave a parameter untrained (see `load_weights`), or
            that were trained otherwise (see `Origin`), are refused.
        keep: number of ``model_<iteration>.pth`` that are kept when a newer one is written; 0 = all. Other files are
            never deleted.
        save_to_disk: whether this process writes; only the main process does.
        classes: names of the classes that the model is trained on; empty = unknown.
        evaluated: class names by the name of each data set that predictions are compared with.
        run: run that the checkpoints belong to. It resumes from its own checkpoints only; None accepts all.
        settings: settings of the run, see `clouds.config.settings`.
        checkpointables: other objects with ``state_dict`` and ``load_state_dict``, such as the optimizer.

    Attributes:
        resumed: whether `resume_or_load` has restored a checkpoint of the run.
        source: path or URL of the file that was loaded last; "" for none.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_frozen: bool = False,
        reloadable: bool = True,
        complete: bool = False,
        keep: int = 0,
        save_to_disk: bool = True,
        classes: Sequence[str] = (),
        evaluated: Mapping[str, Sequence[str]] | None = None,
        run: Run | None = None,
        settings: Settings | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.logger = logger
        self.save_frozen = save_frozen or not reloadable
        self.reloadable = reloadable
        self.complete = complete
        self.keep = keep
        self.origin = Origin(model, reloadable=reloadable, classes=classes, evaluated=evaluated)
        self.run = run
        self.identity = {"run": run.id, "settings": settings or {}} if run else {}
        self.resumed = False
        self.source = ""

    def save(self, name: str, **extra: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` with ``model``, every checkpointable, and `extra` (tensors, plain values).

        What the weights depend on is stored, too, see `Origin`. The entries ``run`` and ``settings`` say which run
        the checkpoint belongs to.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = dict(self.model.state_dict())
        left_out = {} if self.save_frozen else {key: state.pop(key) for key in frozen_keys(self.model)}
        content: dict[str, Any] = {"model": state, **self.origin.entries(left_out)}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        target = Path(self.save_dir) / f"{name}.pth"
        for path in (target, Path(self.save_dir) / "last_checkpoint"):
            if path.is_dir():
                raise UserError(f"{path} cannot be written, a folder has its name: move it away.")
        self.logger.info(f"Saving checkpoint to {target}")
        with atomic_file(target) as part_file, part_file.open("wb") as file:
            try:
                torch.save(content | self.identity | extra, file)
            except RuntimeError as error:
                # On a full disk, torch fails once more when it completes the file.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        self.tag_last_checkpoint(target.name)
        outdated = self.numbered(up_to=target.name)[self.keep :] if self.keep else []
        stray = (path for name in ("model_*", "last_checkpoint*") for path in Path(self.save_dir).glob(f"{name}.part"))
        for path in [*outdated, *stray]:
            if path.is_file():
                path.unlink(missing_ok=True)

    def numbered(self, up_to: str) -> list[Path]:
        """Return every ``model_<iteration>.pth`` up to the iteration in the name `up_to`, newest first.

        If `up_to` has no iteration, all are returned. Later files belong to another training in the same folder; this
        training neither deletes them nor resumes from them.
        """
        numbers = {path: _iteration(path.name) for path in Path(self.save_dir).glob("model_*.pth")}
        last = _iteration(up_to)
        known = {path: n for path, n in numbers.items() if n >= 0 and not 0 <= last < n and path.is_file()}
        return sorted(known, key=known.__getitem__, reverse=True)

    def get_checkpoint_file(self) -> str:
        """Return the path of the checkpoint that ``last_checkpoint`` names; "" if it names no file of the folder."""
        note = Path(self.save_dir) / "last_checkpoint"
        try:
            with note.open("rb") as file:
                name = file.read(_LONGEST_NAME + 1).decode().strip()
        except (OSError, UnicodeDecodeError):
            return ""
        whole = len(name.encode()) <= _LONGEST_NAME and name.isprintable()
        path = Path(self.save_dir) / name
        return str(path) if whole and path.name == name and path.suffix == ".pth" else ""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of a checkpoint to ``last_checkpoint``."""
        write_atomically(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Restore the newest checkpoint of the folder; without `resume`, load only the weights of a file.

        If a checkpoint is missing or damaged, or belongs to another run, a warning is logged and the previous one is
        used. If the run has none yet, the weights of the file are loaded, and it starts from its beginning.

        Args:
            path: path of the weights that are loaded without `resume` or if there is no checkpoint; "" = none.
            resume: whether to restore the newest checkpoint.

        Returns:
            The other entries of the file.

        Raises:
            UserError: no checkpoint can be read, or the weights belong to another model.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        newest = self.get_checkpoint_file()
        candidates = [Path(newest)] if newest else []
        candidates += self.numbered(up_to=Path(newest).name)
        if not newest:
            candidates += [final for final in Path(self.save_dir).glob("model_final.pth") if final.is_file()]
            self.logger.warning(
                f"{self.save_dir}/last_checkpoint is damaged: it names no checkpoint. The newest one is tried."
            )
        tried = others = 0
        for candidate in dict.fromkeys(candidates):
            tried += 1
            try:
                content = read_checkpoint(candidate)
            except UserError as error:
                self.logger.warning(f"{error} The previous checkpoint is tried.")
                continue
            if not self._is_of_run(content, candidate):
                others += 1
                continue
            self.resumed = True
            return self._restore(content, str(candidate))
        if tried and others == tried:
            return self.load(path, checkpointables=[])
        raise UserError(
            f"None of the checkpoints in {self.save_dir} can be read ({tried} tried, "
            f"{candidates[0].name if candidates else 'none'} first): restore one from a copy, or start again without "
            "--resume."
        )

    def _is_of_run(self, content: dict[str, Any], candidate: Path) -> bool:
        owner = content.get("run")
        if self.run is None or owner == self.run.id or "iteration" not in content:  # weights alone are of no run
            return True
        if owner is None and self.run.has_unnamed:
            self.logger.info(f"{candidate} is of an older version and names no run: taken as one of {self.run.id}")
            return True
        named = "names no run" if owner is None else f"belongs to the run {owner}"
        self.logger.warning(f"{candidate} {named}, not to the current run {self.run.id}: it is not used")
        return False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights and checkpointables from a file.

        Args:
            path: path or URL of the file; "" loads nothing.
            checkpointables: names of the checkpointables to load; default: all.

        Returns:
            The other entries of the file.

        Raises:
            UserError: the file does not exist or belongs to another model.
        """
        if not path:
            return {}
        check_weights(path)
        return self._restore(read_checkpoint(local_file(path)), path, checkpointables)

    def _restore(
        self, content: dict[str, Any], source: str, checkpointables: list[str] | None = None
    ) -> dict[str, Any]:
        weights = content.pop("model")
        continues = checkpointables is None and bool(self.checkpointables)
        self.origin.check(content, weights, source, evaluates=self.complete, continues=continues)
        states: dict[str, Any] = {}
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in content:
                self.logger.warning(f"{source} holds no state of the {key}: it starts from its initial state")
                continue
            try:
                states[key] = fitted_state(self.checkpointables[key], content.pop(key), key, self.model)
            except ValueError as error:
                raise UserError(f"{source} cannot be continued with this config: {error}.") from error
        # From here on the model changes: everything is checked, `load_weights` checks before it copies.
        report = load_weights(self.model, weights, source=source, complete=self.complete, reloadable=self.reloadable)
        self.origin.forget(weights)
        for line in report:
            self.logger.info(line)
        for key, state in states.items():
            self.checkpointables[key].load_state_dict(state)
        self.source = source
        return content


def build_checkpointer(cfg: CfgNode, model: nn.Module, **checkpointables: Any) -> Checkpointer:
    """Build the checkpointer of a training, which writes to ``OUTPUT_DIR`` and resumes from there."""
    return Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        save_frozen=cfg.SOLVER.CHECKPOINT_FROZEN,
        reloadable=has_reloadable_backbone(model),
        keep=cfg.SOLVER.CHECKPOINTS_KEPT,
        classes=class_names(cfg.DATASETS.TRAIN) if cfg.DATASETS.TRAIN else (),
        run=shared_run(Path(cfg.OUTPUT_DIR)),
        settings=plain_settings(cfg),
        save_to_disk=comm.is_main_process(),
        **checkpointables,
    )


def load_for_inference(cfg: CfgNode, model: nn.Module, *, resume: bool = False) -> dict[str, Any]:
    """Load ``MODEL.WEIGHTS`` completely into a model; if it is empty, log a warning.

    Args:
        cfg: final config.
        model: model to change in place.
        resume: whether to load the newest checkpoint in ``OUTPUT_DIR`` instead, if there is one.

    Returns:
        The other entries of the file, and its path or URL as ``weights``, "" for no file.

    Raises:
        UserError: the weights cannot be used, or there is neither a checkpoint nor ``MODEL.WEIGHTS`` with `resume`.
    """
    check_test_classes(cfg, model)
    checkpointer = Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        reloadable=has_reloadable_backbone(model),
        complete=True,
        evaluated={name: class_names((name,)) for name in cfg.DATASETS.TEST or cfg.DATASETS.TRAIN},
        run=shared_run(Path(cfg.OUTPUT_DIR)) if resume else None,
    )
    rest = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if resume and not checkpointer.resumed:
        missing = f"No checkpoint in {cfg.OUTPUT_DIR} belongs to its current run"
        if not cfg.MODEL.WEIGHTS:
            raise UserError(f"{missing}, and MODEL.WEIGHTS is empty: give the checkpoint to evaluate as MODEL.WEIGHTS.")
        logger.warning(f"{missing}: MODEL.WEIGHTS is loaded, {cfg.MODEL.WEIGHTS}")
    if not checkpointer.source:
        logger.warning("MODEL.WEIGHTS is empty: the head is untrained and its predictions are meaningless")
    return rest | {"weights": checkpointer.source}


def has_reloadable_backbone(model: nn.Module) -> bool:
    """Return whether the frozen backbone of a model can be loaded again from its own source.

    An architecture without a `SegmentationBackbone` as its attribute ``backbone`` has no such source: its checkpoints
    hold the whole model.
    """
    backbone = dict(model.named_children()).get("backbone")
    return isinstance(backbone, SegmentationBackbone) and backbone.reloadable


def _iteration(name: str) -> int:
    """Return the number in ``model_<iteration>.pth``, -1 for any other name."""
    match = re.fullmatch(r"model_(\d+)\.pth", name)
    return int(match[1]) if match else -1
