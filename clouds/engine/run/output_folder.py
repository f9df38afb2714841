"""The output folder of a run: the files that a run writes there, the lock of a training, and earlier runs.

A new training moves the files of the earlier run to ``previous/<run id>``, which is a complete output folder again.
Other files stay. The files are collected in ``previous/<run id>.part``, which gets its final name at the end: a move
that was interrupted is completed by the next training.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from clouds.errors import UserError
from clouds.utils.atomic import make_folder, writing
from clouds.utils.locks import acquire

PREVIOUS = "previous"
RECORD = "run.json"

OUTPUTS = (
    *(r"run\.json", r"config(_eval)?(_\d+)*\.yaml", r"git(_eval)?(_\d+)*\.diff", r"log\.txt(\.rank\d+)?"),
    *(r"metrics(_eval)?\.json", r"skipped\.jsonl", r"events\.out\.tfevents\..+", "wandb"),
    *(r"model_(\d+|final|best|ema)\.pth", "last_checkpoint"),
    *("evaluations", "pseudo_label_panels", "pseudo_labels"),
)
"""Regular expressions of the names of all files and folders that a run writes to its output folder."""

LOCKS = (".training.lock", ".record.lock")
"""Files of the locks. They stay in the folder, and are empty."""

_OUTPUT = re.compile(rf"({'|'.join(OUTPUTS)})(\.\d+\.part)?")
_PART = ".part"
_RECORD_SECONDS = 60.0  # longest wait for another process that writes the record

_held: dict[Path, FileLock] = {}


def find_outputs(folder: Path) -> list[Path]:
    """Return the files and folders in `folder` that a run has written, the record last."""
    found = sorted(path for path in folder.iterdir() if _OUTPUT.fullmatch(path.name))
    return sorted(found, key=lambda path: path.name == RECORD)


def set_aside(folder: Path, run: str) -> dict[Path, Path]:
    """Move the files of a run to ``previous/<run>``.

    Args:
        folder: output folder.
        run: id of the run.

    Returns:
        Earlier path -> new path of every file and folder that was moved; empty if there is none.

    Raises:
        WriteError: a file cannot be moved. The next call continues.
    """
    outputs = find_outputs(folder)
    unfinished = sorted((folder / PREVIOUS).glob(f"*{_PART}"))
    if not outputs and not unfinished:
        return {}
    part_folder = unfinished[0] if unfinished else folder / PREVIOUS / f"{run}{_PART}"
    make_folder(part_folder)
    with writing(part_folder):
        moved = {path: _move(path, part_folder) for path in outputs}
        target = free_path(part_folder.with_name(part_folder.name.removesuffix(_PART)))
        part_folder.rename(target)
    return {path: target / part.name for path, part in moved.items()}


def complete_move(folder: Path) -> None:
    """Complete a `set_aside` that was interrupted.

    Raises:
        WriteError: a file cannot be moved.
    """
    if any((folder / PREVIOUS).glob(f"*{_PART}")):
        set_aside(folder, "")


def new_place(name: str, moved: Mapping[Path, Path]) -> str:
    """Return the name of an input after `set_aside` has moved files; `name` itself if the input was not moved.

    Args:
        name: path of a file or folder; a text that is no path is returned unchanged.
        moved: result of `set_aside`.
    """
    path = Path(os.path.abspath(name))  # noqa: PTH100  (a link keeps its own name)
    for old, new in moved.items():
        old_path = Path(os.path.abspath(old))  # noqa: PTH100
        if path.is_relative_to(old_path):
            return str(new / path.relative_to(old_path))
    return name


@contextmanager
def record_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the record in `folder` meanwhile.

    Raises:
        UserError: the record is locked by another process for more than a minute.
    """
    lock = FileLock(folder / LOCKS[1], timeout=_RECORD_SECONDS)
    if not acquire(lock):
        raise UserError(
            f"Another process has been writing to {folder / RECORD} for {_RECORD_SECONDS:.0f} s: stop it, then try "
            "again."
        )
    try:
        yield
    finally:
        lock.release()


def hold(folder: Path) -> bool:
    """Take the lock of the training in `folder`, until `release` or the end of this process.

    Returns:
        Whether this process has the lock; False if another process has it. On a file system without locks, a warning
        is logged and the result is True.
    """
    key = folder.resolve()
    if key not in _held:
        lock = FileLock(folder / LOCKS[0], blocking=False)
        if not acquire(lock):
            return False
        _held[key] = lock
    return True


def is_in_use(folder: Path) -> bool:
    """Return whether another process has the lock of the training in `folder`; nothing is written there."""
    if not (folder / LOCKS[0]).exists():
        return False
    if not hold(folder):
        return True
    release(folder)
    return False


def release(folder: Path) -> None:
    """Release the lock of the training in `folder` if this process has it."""
    lock = _held.pop(folder.resolve(), None)
    if lock:
        lock.release()


def _move(path: Path, folder: Path) -> Path:
    """Move a file or folder into `folder`, under another name if its name is taken there, and return its new path."""
    target = free_path(folder / path.name)
    if path.is_symlink() and not os.path.isabs(link := os.readlink(path)):  # noqa: PTH115, PTH117
        target.symlink_to(os.path.relpath(path.parent / link, folder))
        path.unlink()
    else:
        path.rename(target)
    return target


def free_path(path: Path) -> Path:
    """Return `path`, or if it exists the first of ``<name>_2``, ``<name>_3``, ... that does not."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free
