"""Checkpoints: trained weights and training state, written atomically by a thread, and how a run resumes from them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from clouds.clouds import CLOUDS
from clouds.config import check_weights
from clouds.config.settings import Settings
from clouds.engine.checkpointing.files import delete_outdated, named, resumable, write_checkpoint
from clouds.engine.checkpointing.origin import Origin
from clouds.engine.checkpointing.states import fitted, fitted_state
from clouds.engine.checkpointing.weights import frozen_keys, load_weights, read_checkpoint
from clouds.engine.run.record import Run
from clouds.errors import UserError
from clouds.utils.atomic import write_atomically
from clouds.utils.beside import Beside
from clouds.utils.downloads import local_file
from clouds.utils.tensors import StateDict
from clouds.utils.transfer import snapshot

logger = logging.getLogger(__name__)

_BEST = "model_best"
_AVERAGE = "ema"  # entry of the moving average of the weights


class Checkpointer(FvcoreCheckpointer):
    """fvcore's checkpointer for trained weights only, with atomic files, safetensors and a short report of the keys.

    A thread writes the files, one at a time, while the training goes on. Until a file is complete, the files before it
    and ``last_checkpoint`` stay as they are.

    Args:
        model: module to save and load; of a DistributedDataParallel module, the wrapped one.
        save_dir: folder of ``<name>.pth`` and of ``last_checkpoint``, which names the newest checkpoint.
        save_frozen: whether to store the `frozen_keys`, as the published checkpoints do.
        reloadable: whether the backbone loads its frozen weights from their own source (see `SegmentationBackbone`).
            If not, checkpoints always hold them.
        complete: whether the model is only evaluated: weights that leave a parameter untrained (see `load_weights`), or
            that were trained otherwise (see `Origin`), are refused. The geometric ensemble then takes those classes for
            trained ones that the checkpoint records.
        keep: number of the newest ``model_<iteration>.pth`` that are kept when one is written, and of the newest among
            those after a multiple of `period` iterations; 0 = all. Other files are never deleted.
        period: iterations between the checkpoints of the second kind; 0 = there are none.
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
        period: int = 0,
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
        self.period = period
        self.origin = Origin(model, reloadable=reloadable, classes=classes, evaluated=evaluated)
        self.run = run
        self.identity = {"run": run.id, "settings": settings or {}} if run else {}
        self.resumed = False
        self.source = ""
        self._writing: Beside[None] | None = None

    def save(self, name: str, **extra: Any) -> None:
        """Copy ``model``, every checkpointable and `extra`; a thread writes them to ``<save_dir>/<name>.pth``.

        ``last_checkpoint`` then names the file, and outdated checkpoints are deleted. If the file before is still being
        written, this waits for it, and raises its error. Call `wait` before anything reads the file.

        What the weights depend on is stored, too, see `Origin`. The entries ``run`` and ``settings`` say which run
        the checkpoint belongs to.

        Args:
            name: name of the file without its suffix.
            extra: further entries, tensors and plain values.
        """
        if self._begin(name, "last_checkpoint"):
            states = {key: part.state_dict() for key, part in self.checkpointables.items()}
            self._write_beside(name, states | extra, self._complete)

    def save_weights(self, name: str, model: nn.Module, **extra: Any) -> None:
        """Copy weights alone, as `save` does; a thread replaces ``<save_dir>/<name>.pth`` with them.

        The file is for evaluation and fine-tuning: no training resumes from it, and it is never deleted.

        Args:
            name: name of the file without its suffix.
            model: the model, or a moving average of it.
            extra: further entries.
        """
        if self._begin(name):
            self._write_beside(name, extra, weights=model)

    def save_best(self, score: float, data_set: str, model: nn.Module, **extra: Any) -> None:
        """Replace ``<save_dir>/model_best.pth`` as `save_weights` does.

        Args:
            score: score of the weights, in percent; the entry ``score``.
            data_set: name of the data set that it was measured on; the entry ``selected_on``.
            model: the model that has this score.
            extra: further entries.
        """
        self.save_weights(_BEST, model, score=score, selected_on=data_set, **extra)

    def read_best(self) -> dict[str, Any]:
        """Return the entries of the run's ``model_best.pth``; {} if there is none that can be read."""
        path = Path(self.save_dir) / f"{_BEST}.pth"
        if not path.is_file():
            return {}
        try:
            content = read_checkpoint(path)
        except UserError as error:
            self.logger.warning(f"{error} The next evaluation replaces it.")
            return {}
        return content if self._is_of_run(content, path) else {}

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            Exception: the exception that the writing raised, as it is; an `OSError` for a full disk. It is raised once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def raise_failure(self) -> None:
        """Raise the exception of the last write if it has failed, without waiting for it (see `wait`)."""
        if self._writing is not None and self._writing.is_done:
            self.wait()

    def _begin(self, name: str, *notes: str) -> bool:
        """Wait for the file before, and return whether this process writes another one."""
        if not self.save_dir or not self.save_to_disk:
            return False
        self.wait()
        for path in (Path(self.save_dir) / file for file in (f"{name}.pth", *notes)):
            if path.is_dir():
                raise UserError(f"{path} cannot be written, a folder has its name: move it away.")
        return True

    def _write_beside(
        self,
        name: str,
        entries: dict[str, Any],
        then: Callable[[Path], None] | None = None,
        weights: nn.Module | None = None,
    ) -> None:
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {target}")
        state = (weights or self.model).state_dict()
        # Training does not change these: they are read while they are written, and need no copy.
        frozen = {key: state.pop(key) for key in frozen_keys(self.model)}
        copied = snapshot({"model": state, **entries}) | self.identity
        device = next((tensor.device for tensor in state.values()), torch.device("cpu"))
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None

        def write() -> None:
            if stream is not None:
                stream.synchronize()  # it follows the copies
            stored, left_out = (frozen, {}) if self.save_frozen else ({}, frozen)
            content = {**copied, "model": copied["model"] | stored, **self.origin.entries(left_out)}
            write_checkpoint(content, target)
            if then is not None:
                then(target)

        # An interpreter that ends waits for the file.
        self._writing = Beside(write, stream, daemon=False)

    def _complete(self, target: Path) -> None:
        self.tag_last_checkpoint(target.name)
        delete_outdated(target, keep=self.keep, period=self.period)

    def get_checkpoint_file(self) -> str:
        """Return the path of the checkpoint that ``last_checkpoint`` names; "" if it names no file of the folder."""
        return str(named(Path(self.save_dir)) or "")

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
        self.wait()
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        folder, newest = Path(self.save_dir), named(Path(self.save_dir))
        if not newest:
            self.logger.warning(
                f"{folder}/last_checkpoint is damaged: it names no checkpoint. The newest one is tried."
            )
        candidates = resumable(folder, newest)
        tried = others = 0
        for candidate in candidates:
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
            return self.restore(content, str(candidate))
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
        self.wait()
        if not path:
            return {}
        check_weights(path)
        return self.restore(read_checkpoint(local_file(path)), path, checkpointables)

    def restore(self, content: dict[str, Any], source: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights and checkpointables from the content of a file.

        Where the training of the file does not go on, its moving average of the weights takes their place, if it has
        one: these weights were evaluated.

        Args:
            content: result of `read_checkpoint`; what is loaded is removed.
            source: path or URL of the file.
            checkpointables: names of the checkpointables to load; default: all.

        Returns:
            The other entries of the file.

        Raises:
            UserError: the file belongs to another model.
        """
        weights, trained = content.pop("model"), content.get("classes")
        continues = checkpointables is None and bool(self.checkpointables)
        if not continues and _AVERAGE in content:
            weights = _with_average(weights, content.pop(_AVERAGE), source)
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
        if self.complete and trained and isinstance(self.model, CLOUDS):
            self.model.train_classes = tuple(trained)  # the config may name other data sets, such as --dataset
        for line in report:
            self.logger.info(line)
        for key, state in states.items():
            self.checkpointables[key].load_state_dict(state)
        self.source = source
        return content


def _with_average(weights: StateDict, average: Any, source: str) -> StateDict:
    """Return weights with those of a moving average in the place of the trained ones."""
    named = {key: value for key, value in weights.items() if not isinstance(average, Mapping) or key in average}
    try:
        return weights | fitted(average, named, _AVERAGE)
    except ValueError as error:
        raise UserError(f"{source} cannot be used: {error}; take another checkpoint.") from error
