"""The run that a start belongs to: a new run, or the current run of the output folder, which it resumes."""

import datetime
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clouds.config import check_weights
from clouds.config.settings import PATHS, Settings, changed_settings, evaluated_sets, plain_settings, read_settings
from clouds.d2 import CfgNode
from clouds.data.datasets.catalog import dataset_names, load_dataset
from clouds.engine.checkpointing.weights import read_checkpoint
from clouds.engine.run.output_folder import (
    PREVIOUS,
    complete_move,
    find_outputs,
    hold,
    new_place,
    record_lock,
    release,
    set_aside,
)
from clouds.engine.run.record import Kind, Run, current_run, describe_holder, is_run_id, new_run_id
from clouds.errors import UserError
from clouds.utils.world import restarted_call

logger = logging.getLogger(__name__)

_SHOWN = 300  # characters of a message that list changed settings


@dataclass(frozen=True)
class Start:
    """Decision about a start.

    Attributes:
        kind: kind of the start.
        run: id of its run; None for an evaluation.
        settings: config keys to set, with their values.
        moved: absolute path -> new absolute path of each input of the config that was moved with the earlier run.
        notes: lines for the log, which starts after the earlier log has been moved.
    """

    kind: Kind
    run: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def decide_start(output: Path, cfg: CfgNode, *, evaluates: bool, resumes: bool, anyway: bool = False) -> Start:
    """Decide which run a start belongs to. Called by the main process only.

    A training takes the lock of the folder. A new run moves the files of an earlier one aside. An evaluation takes no
    lock and moves nothing. If torchrun restarts a training, the run that its first start has begun is resumed.

    Args:
        output: existing output folder.
        cfg: config of the start.
        evaluates: whether nothing is trained.
        resumes: whether the current run of the folder is continued, if there is one.
        anyway: whether it is continued with other settings, too.

    Raises:
        UserError: the folder is in use by another training, the run to resume has other settings, or the record cannot
            be read.
        OSError: a file cannot be read or moved.
    """
    if evaluates:
        run = current_run(output) if resumes else None
        return Start(Kind.EVALUATION, settings=_seed(run, _recorded(output, run)) if run else {})
    if not hold(output):
        holder = describe_holder(output)
        raise UserError(
            f"Another training is running in {output}{f' ({holder})' if holder else ''}: wait for its end, stop it, or "
            "choose another OUTPUT_DIR."
        )
    try:
        with record_lock(output):
            complete_move(output)
            current = current_run(output)
            if current and current.torchrun and current.torchrun == restarted_call():
                resumes = True
            run = (current or _run_of_checkpoints(output)) if resumes else None
            return _resume(output, cfg, run, anyway=anyway) if run else _begin(output, cfg, resumes=resumes)
    except BaseException:
        release(output)
        raise


def _begin(output: Path, cfg: CfgNode, *, resumes: bool) -> Start:
    """Start a new run in an empty folder, or in one whose earlier run is moved aside."""
    earlier = current_run(output)
    outputs = find_outputs(output)
    if outputs:
        check_inputs(cfg, outputs)
    moved = set_aside(output, earlier.id if earlier else _time_of_outputs(output))
    settings = _moved_inputs(cfg, lambda name: new_place(name, moved))
    old = plain_settings(cfg)
    pairs = [pair for key, new in settings.items() for pair in zip(_names(old[key]), _names(new), strict=True)]
    notes = []
    if moved:
        notes.append(f"This is a new run: the earlier files in {output} are now in {next(iter(moved.values())).parent}")
    notes += [f"{key} is now {value}" for key, value in settings.items()]
    if resumes:
        others = f"; earlier runs are in {output / PREVIOUS}" if (output / PREVIOUS).is_dir() else ""
        notes.append(f"No run in {output} to resume: starting a new one{others}")
    # Absolute, since a later start may have another working folder.
    absolute = {os.path.abspath(a): os.path.abspath(b) for a, b in pairs if a != b}  # noqa: PTH100
    return Start(Kind.TRAINING, new_run_id(), settings, absolute, tuple(notes))


def check_inputs(cfg: CfgNode, outputs: Sequence[Path]) -> None:
    """Check that the inputs exist and stay usable before the files of an earlier run, `outputs`, are moved.

    Raises:
        UserError: the weights or a data set are missing, or files of a data set would be moved.
    """
    check_weights(cfg.MODEL.WEIGHTS)
    roots = tuple(f"{os.path.abspath(path)}{os.sep}" for path in outputs)  # noqa: PTH100
    for name in [*dataset_names(cfg.DATASETS.TRAIN), *evaluated_sets(cfg)]:
        for record in load_dataset(name):
            files = [value for key, value in record.items() if key.endswith("file_name") and isinstance(value, str)]
            inside = next((file for file in files if os.path.abspath(file).startswith(roots)), None)  # noqa: PTH100
            if inside:
                raise UserError(
                    f"The data set {name} reads {inside}, which the earlier run wrote and a new training would move to "
                    f"{PREVIOUS}: choose another OUTPUT_DIR."
                )


def _resume(output: Path, cfg: CfgNode, run: Run, *, anyway: bool) -> Start:
    """Continue the current run of a folder, unless its settings were others."""
    inputs = _moved_inputs(cfg, lambda name: run.moved.get(os.path.abspath(name), name))  # noqa: PTH100
    recorded, here = _recorded(output, run), plain_settings(cfg) | inputs
    changed = changed_settings(recorded, here, Path(run.folder))
    if changed and not anyway:
        raise UserError(
            f"--resume would continue the run {run.id} in {output} with other settings, {_listed(changed, _SHOWN)}: "
            f"repeat the settings of {output / run.config}, or add --resume-anyway."
        )
    seed = _seed(run, recorded)
    notes = []
    if not recorded:
        notes.append(f"{output / run.config} is missing: the settings of the run {run.id} cannot be compared")
    if changed:
        notes.append(f"The run {run.id} continues with other settings: {_listed(changed)}")
    if "SEED" in changed:
        notes.append(f"The run keeps its seed, {seed['SEED']}")
    if here["SOLVER.LR_SCHEDULER_NAME"] == "WarmupPolyLR":
        before, now = recorded.get("SOLVER.MAX_ITER"), here["SOLVER.MAX_ITER"]
        if before not in (None, now):
            notes.append(f"SOLVER.MAX_ITER is {now} instead of {before}: the learning rate now follows this length")
    return Start(Kind.RESUMED, run.id, {**inputs, **seed}, notes=tuple(notes))


def _recorded(output: Path, run: Run) -> Settings:
    """Return the settings of the newest start of a run; empty if they are unknown."""
    file = output / run.config
    return read_settings(file) if file.is_file() else dict(run.settings)


def _seed(run: Run, recorded: Settings) -> Settings:
    seed = recorded.get("SEED", run.seed)
    return {"SEED": seed} if type(seed) is int and seed >= 0 else {}


def _run_of_checkpoints(output: Path) -> Run | None:
    """Return the run of the newest checkpoint in a folder without a record, None if there is no checkpoint."""
    if not (output / "last_checkpoint").is_file():
        return None
    for file in sorted(output.glob("model_*.pth"), key=lambda path: (path.stat().st_mtime, path.name), reverse=True):
        try:
            content = read_checkpoint(file)
        except UserError:  # the checkpointer reports it, and looks for another one
            continue
        run, seed, settings = (content.get(name) for name in ("run", "seed", "settings"))
        return Run(
            str(run) if is_run_id(run) else new_run_id(),
            seed if type(seed) is int else None,
            settings=settings if isinstance(settings, dict) else {},
        )
    return Run(new_run_id())


def _moved_inputs(cfg: CfgNode, place: Callable[[str], str]) -> Settings:
    """Return the config keys whose files have another place now, with their new values."""
    settings = {}
    for key, value in plain_settings(cfg).items():
        if key in PATHS and key != "OUTPUT_DIR":
            new = place(value) if isinstance(value, str) else [place(name) for name in value]
            if new != value:
                settings[key] = new
    return settings


def _names(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _time_of_outputs(output: Path) -> str:
    """Return the time of the newest file of an earlier run that has no id, as its name."""
    newest = max((path.lstat().st_mtime for path in find_outputs(output)), default=0.0)
    return f"{datetime.datetime.fromtimestamp(newest):%Y%m%d-%H%M%S}"


def _listed(changed: Mapping[str, tuple[Any, Any]], most: int | None = None) -> str:
    """Return ``KEY old -> new, ...``, with at most `most` characters if it is given."""
    parts = [f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in changed.items()]
    shown: list[str] = []
    for part in parts:
        if most is not None and shown and len(", ".join([*shown, part])) > most:
            return f"{', '.join(shown)} and {len(parts) - len(shown)} more"
        shown.append(part)
    return ", ".join(shown)


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
