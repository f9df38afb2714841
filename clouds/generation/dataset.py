"""Generated set on disk: images that carry their own record, and the files derived from them.

    <folder>/images/im_<global index>_p<prompt index>.png
    <folder>/manifest.jsonl    one row per image, sorted by index
    <folder>/rejected.jsonl    images that were generated and rejected, with the reason
    <folder>/dataset.json      settings, prompts, licence, and one entry for each run
    <folder>/README.md         dataset card

Images are written atomically, with their record in a PNG text chunk. They are the source of truth: each process that
ends rebuilds the manifest from them. Processes that share a folder wait for each other only at that point.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, PngImagePlugin

from clouds.errors import UserError
from clouds.generation.card import dataset_card
from clouds.generation.plan import image_file_name
from clouds.generation.records import CHUNK, belongs, read_description, read_manifest, read_record, read_rejected
from clouds.generation.shares import Shares
from clouds.utils.atomic import make_folder, write_atomically, writing
from clouds.utils.folders import is_hidden
from clouds.utils.images import encoded
from clouds.utils.jsonl import Row, write_rows
from clouds.utils.locks import acquire
from clouds.utils.world import World

logger = logging.getLogger(__name__)

STALE_SECONDS = 600
"""Age from which a `.part` file belongs to a process that no longer runs: no image takes that long to write."""


class GeneratedSet:
    """Folder of a generated set. Each process that works in the folder has its own object.

    Attributes:
        folder: folder of the set.
        image_folder: folder of the images.
        manifest_file: rows of all images.
        rejected_file: rows of rejected images.
        description_file: settings, prompts, licence and runs.
        shares: processes that are at work on the set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image_folder = folder / "images"
        self.manifest_file = folder / "manifest.jsonl"
        self.rejected_file = folder / "rejected.jsonl"
        self.description_file = folder / "dataset.json"
        self.shares = Shares(folder / ".shares")
        self._known: dict[str, Row] = {}
        self._identity: tuple[list[str], int] | None = None  # prompts and seed of the set, known after `begin`

    def make_folder(self) -> None:
        """Create the folder, so that a folder that is not writable is reported before a model is loaded.

        Raises:
            WriteError: the folder cannot be created or is not writable.
        """
        make_folder(self.image_folder)
        with self.lock():
            pass

    def begin_share(self, part: str, world: World) -> None:
        """Declare that this process is at work on its share of a part, until `end_share` or its end.

        Args:
            part: identifies the part, as a file name.
            world: position of this process.

        Raises:
            UserError: the share is that of another process at work.
            WriteError: the folder is not writable.
        """
        with self.lock():
            self.shares.take(part, world)

    def end_share(self) -> None:
        """Declare that this process has ended its share. Does nothing if it has none."""
        with self.lock():
            self.shares.release()

    def has_others(self, part: str) -> bool:
        """Return whether another process is at work on a part."""
        with self.lock():
            return self.shares.others(part)

    def begin(self, settings: Mapping[str, Any], prompts: list[str], licence: str) -> None:
        """Start a new set, or check that the existing set has the same settings.

        Args:
            settings: JSON values that determine the images. `model` and `revision` may differ from the existing set.
            prompts: prompts of the set.
            licence: licence of the images.

        Raises:
            UserError: the folder holds a set with other settings or prompts.
            WriteError: the folder cannot be written.
        """
        self.make_folder()
        with self.lock():
            if self.description_file.is_file():
                self._check_same(dict(settings), prompts)
            elif any(self._images()):
                raise UserError(
                    f"{self.image_folder} holds images, but {self.description_file} is missing, so their settings are "
                    "not known; use another --folder."
                )
            else:
                self._write_json({"settings": dict(settings), "prompts": prompts, "licence": licence, "runs": []})
        self._identity = prompts, int(settings["seed"])
        self._known = {row["file_name"]: row for row in read_manifest(self.manifest_file) if self._owns(row)}
        for stray in self.image_folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - stray.stat().st_mtime > STALE_SECONDS:
                    stray.unlink()

    def description(self) -> dict[str, Any]:
        """Return the content of `dataset.json`.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_description(self.description_file)

    def row(self, index: int, prompt_index: int) -> Row | None:
        """Return the manifest row of an image; None if the image is missing or damaged."""
        return self._row(self.image_folder / image_file_name(index, prompt_index))

    def write(self, pixels: npt.NDArray[np.uint8], record: Row) -> Row:
        """Write an image.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            record: JSON values, at least `index` and `prompt_index`; none may depend on time or machine.

        Returns:
            The manifest row of the image.

        Raises:
            WriteError: the image cannot be written. Written images are kept, and the same command continues.
        """
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(CHUNK, json.dumps(record, ensure_ascii=False))
        content = encoded(Image.fromarray(pixels), "PNG", pnginfo=chunk)
        path = self.image_folder / image_file_name(record["index"], record["prompt_index"])
        write_atomically(path, content)
        return self._add(path, record, len(content), hashlib.sha256(content).hexdigest())

    def remove(self, row: Row) -> None:
        """Delete the image of a row."""
        path = self.folder / row["file_name"]
        with writing(path):
            path.unlink(missing_ok=True)
        self._known.pop(row["file_name"], None)

    def rejected(self) -> dict[tuple[int, int], Row]:
        """Return the rows of rejected images by (index, attempt)."""
        return {(row["index"], row["attempt"]): row for row in read_rejected(self.rejected_file)}

    def reject(self, rows: Iterable[Row]) -> None:
        """Add rows to the rejected images. Takes the lock, which the caller must not hold."""
        with self.lock():
            self.reject_locked(rows)

    def reject_locked(self, rows: Iterable[Row]) -> None:
        """Add rows to the rejected images. The caller must hold the lock."""
        all_rows = self.rejected() | {(row["index"], row["attempt"]): row for row in rows}
        write_rows(self.rejected_file, [all_rows[key] for key in sorted(all_rows)])

    def finish(self, run: Mapping[str, Any]) -> list[Row]:
        """Rebuild the manifest and the card from the images, and add an entry for this run.

        Takes the lock, which the caller must not hold.

        Args:
            run: JSON values that describe the run.

        Returns:
            The rows of the manifest.
        """
        with self.lock():
            return self.finish_locked(run)

    def finish_locked(self, run: Mapping[str, Any]) -> list[Row]:
        """Do the work of `finish`. The caller must hold the lock."""
        rows = self.all_rows()
        write_rows(self.manifest_file, rows)
        content = self.description()
        content["runs"].append(dict(run))
        self._write_json(content)
        card = dataset_card(self.folder.name, content, rows, list(self.rejected().values()))
        write_atomically(self.folder / "README.md", f"{card}\n")
        return rows

    def all_rows(self) -> list[Row]:
        """Return the rows of all images that are not damaged, sorted by index."""
        found = (self._row(path) for path in self._images())
        return sorted((row for row in found if row is not None), key=lambda row: row["index"])

    def _images(self) -> Iterator[Path]:
        return (path for path in self.image_folder.glob("*.png") if not is_hidden(path.name))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude all other processes that hold this lock. A process must not take it twice."""
        lock = FileLock(self.folder / ".lock")
        acquire(lock)
        try:
            yield
        finally:
            lock.release()

    def _row(self, path: Path) -> Row | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): remove it, or use another --folder.") from error
        # The manifest only says that an image is intact: its rows may have been edited.
        known = self._known.get(f"images/{path.name}")
        digest = hashlib.sha256(data).hexdigest()
        record = read_record(data, intact=known is not None and known["sha256"] == digest)
        if (
            record is None
            or path.name != image_file_name(record["index"], record["prompt_index"])
            or not self._owns(record)
        ):
            logger.warning(f"{path} is damaged or does not belong to this set.")
            return None
        return self._add(path, record, len(data), digest)

    def _owns(self, record: Row) -> bool:
        """Return whether an image has the prompt and the seed that its index has in this set."""
        return self._identity is None or belongs(record, *self._identity)

    def _add(self, path: Path, record: Row, size: int, digest: str) -> Row:
        """Return the manifest row of an image, and remember it."""
        row = {"file_name": f"images/{path.name}", **record, "size": size, "sha256": digest}
        self._known[row["file_name"]] = row
        return row

    def _check_same(self, settings: dict[str, Any], prompts: list[str]) -> None:
        existing = self.description()
        # The model may be stored elsewhere; its fingerprint, another setting, must be the same.
        for key in [key for key in settings if key not in ("model", "revision")]:
            if (old := existing["settings"].get(key)) != settings[key]:
                raise UserError(
                    f"{self.folder} was made with {key} {old}, and this run has {settings[key]}; "
                    "give the same settings to continue, or another --folder."
                )
        if existing["prompts"] != prompts:
            raise UserError(
                f"{self.folder} was made with other prompts; give the same file to continue, or another --folder."
            )

    def _write_json(self, content: dict[str, Any]) -> None:
        write_atomically(self.description_file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
