"""Shares of a part: which processes are at work on it, and whether the part is complete."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from clouds.errors import UserError
from clouds.utils.atomic import make_folder
from clouds.utils.locks import acquire
from clouds.utils.world import World


@dataclass(frozen=True)
class Coverage:
    """Images of a part that exist when a process ends.

    Attributes:
        wanted: number of images of the part.
        existing: number of images that exist.
        left_out: number of images that were rejected in every attempt.
        others: whether another process is at work on the part.
    """

    wanted: int
    existing: int
    left_out: int = 0
    others: bool = False

    @property
    def missing(self) -> int:
        """Number of images that are still to be generated."""
        return self.wanted - self.existing - self.left_out

    @property
    def is_fine(self) -> bool:
        """Whether the part is complete and not empty, or other processes generate the rest."""
        return self.others if self.missing else self.existing > 0

    def __str__(self) -> str:
        found = f"{self.existing:,} of {self.wanted:,} images exist"
        if self.left_out:
            found += f", {self.left_out:,} were rejected in every attempt and are left out"
        if not self.missing:
            return f"complete: {found}" if self.existing else f"no image was accepted: {found}; see rejected.jsonl"
        if self.others:
            return f"{found}; the other processes generate the rest"
        return (
            f"incomplete: {found}, and no other process is at work on the rest; run the same command again, in one "
            "process or in all"
        )


class Shares:
    """Locked files that tell which processes are at work on a set. The caller must hold the lock of the set.

    A lock ends with its process, however that ends.

    Args:
        folder: folder for the files, created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: tuple[Path, FileLock] | None = None

    def take(self, part: str, world: World) -> None:
        """Declare that this process is at work on its share.

        Args:
            part: identifies the part, as a file name.
            world: position of this process.

        Raises:
            UserError: the share is that of another process at work.
            WriteError: the file cannot be written.
        """
        make_folder(self._folder)
        path = self._folder / f"{part}.{world.rank}_of_{world.size}"
        lock = FileLock(path, blocking=False)
        if not acquire(lock):
            raise UserError(
                f"Another process is at work on the same images in {self._folder.parent}, also as number {world.rank} "
                f"of {world.size} process(es): wait for its end, or start the processes with torchrun or srun, which "
                "number them."
            )
        self._held = path, lock

    def release(self) -> None:
        """Declare that this process has ended its share."""
        if self._held is not None:
            path, lock = self._held
            # Before another process can take the file. Windows removes no file in use, and it may stay there.
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)
            lock.release()
            self._held = None

    def others(self, part: str) -> bool:
        """Return whether another process is at work on a share of the part."""
        own = self._held[0] if self._held is not None else None
        return any(_is_locked(path) for path in self._folder.glob(f"{part}.*") if path != own)


def coverage(wanted: Collection[int], existing: Collection[int], given_up: Collection[int], others: bool) -> Coverage:
    """Count the images of a part.

    Args:
        wanted: indices of the part.
        existing: indices of the images of the set.
        given_up: indices that were rejected in every attempt.
        others: whether another process is at work on the part.
    """
    there = set(wanted) & set(existing)
    return Coverage(len(wanted), len(there), len((set(wanted) & set(given_up)) - there), others)


def _is_locked(path: Path) -> bool:
    lock = FileLock(path, blocking=False)
    if not acquire(lock):
        return True
    lock.release()
    return False
