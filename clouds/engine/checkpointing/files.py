"""Files of checkpoints in an output folder: writing one, the order of several, and which of them are outdated."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from clouds.utils.atomic import atomic_file

_LONGEST_NAME = 255  # bytes, of a file


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a torch file atomically; it is on disk on return.

    Raises:
        WriteError: the file cannot be written. An earlier file of this name is unchanged.
    """
    with atomic_file(path) as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def numbered(folder: Path, up_to: str) -> list[Path]:
    """Return every ``model_<iteration>.pth`` up to the iteration in the name `up_to`, newest first.

    If `up_to` has no iteration, all are returned. Later files belong to another training in the same folder; this
    training neither deletes them nor resumes from them.
    """
    numbers = {path: _iteration(path.name) for path in folder.glob("model_*.pth")}
    last = _iteration(up_to)
    known = {path: n for path, n in numbers.items() if n >= 0 and not 0 <= last < n and path.is_file()}
    return sorted(known, key=known.__getitem__, reverse=True)


def named(folder: Path) -> Path | None:
    """Return the path of the checkpoint that ``last_checkpoint`` names; None if it names no file of the folder."""
    try:
        with (folder / "last_checkpoint").open("rb") as file:
            name = file.read(_LONGEST_NAME + 1).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    whole = len(name.encode()) <= _LONGEST_NAME and name.isprintable()
    path = folder / name
    return path if whole and path.name == name and path.suffix == ".pth" else None


def resumable(folder: Path, newest: Path | None) -> list[Path]:
    """Return the checkpoints that a run in a folder may resume from, in the order in which they are tried.

    Args:
        folder: output folder of the run.
        newest: result of `named`. Without it, every checkpoint of the folder is returned, the final one last.
    """
    if newest:
        return list(dict.fromkeys([newest, *numbered(folder, up_to=newest.name)]))
    return numbered(folder, up_to="") + [final for final in folder.glob("model_final.pth") if final.is_file()]


def delete_outdated(newest: Path, *, keep: int, period: int) -> None:
    """Delete outdated checkpoints beside the newest one, and files that a killed process has not completed.

    Args:
        newest: path of the newest checkpoint.
        keep: number of the newest ``model_<iteration>.pth`` that stay, and of the newest among those after a multiple
            of `period` iterations; 0 = all.
        period: number of iterations; 0 = nothing is a multiple of it.
    """
    checkpoints = numbered(newest.parent, up_to=newest.name) if keep else []
    periodic = [path for path in checkpoints if period and (_iteration(path.name) + 1) % period == 0]
    kept = {*checkpoints[:keep], *periodic[:keep]}
    stray = (path for name in ("model_*", "last_checkpoint*") for path in newest.parent.glob(f"{name}.part"))
    for path in [*checkpoints, *stray]:
        if path not in kept and path.is_file():
            path.unlink(missing_ok=True)


def _iteration(name: str) -> int:
    """Return the number in ``model_<iteration>.pth``, -1 for any other name."""
    match = re.fullmatch(r"model_(\d+)\.pth", name)
    return int(match[1]) if match else -1
