"""A generated set on disk: images that carry their own record, and what is derived from them.

    <folder>/images/im_<global index>_p<prompt index>.png
    <folder>/manifest.jsonl    a row an image, sorted by index
    <folder>/rejected.jsonl    images that were painted and not taken, with the reason
    <folder>/dataset.json      settings, prompts, licence, and what each run did
    <folder>/README.md         the card

An image is written whole or not at all, with its record in a text chunk. So the images are the truth: the manifest is
made from them, anew, by each process that ends. Processes that share a folder wait for one another only at that point.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from clouds.errors import UserError
from clouds.generation.card import card
from clouds.generation.plan import file_name
from clouds.utils.atomic import write_atomically
from clouds.utils.images import DECODE_ERRORS, is_truncated_png
from clouds.utils.jsonl import Row, read_rows, write_rows

logger = logging.getLogger(__name__)

CHUNK = "clouds"  # keyword of the PNG text chunk
STALE = 600  # seconds; no image takes that long to write, so an older .part file is a dead process's


class GeneratedSet:
    """One folder. Every process that works in it has an object of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.manifest_file = folder / "manifest.jsonl"
        self.rejected_file = folder / "rejected.jsonl"
        self.description_file = folder / "dataset.json"
        self._known: dict[str, Row] = {}

    def make_folder(self) -> None:
        """So that a folder that cannot be written to is found before a model is loaded.

        Raises:
            UserError: it cannot be made.
        """
        with _told(self.folder):
            self.images.mkdir(parents=True, exist_ok=True)
        with self.lock():
            pass

    def begin(self, settings: Mapping[str, Any], prompts: list[str], licence: str) -> None:
        """Make the folder, or see that it is the set of these settings.

        Raises:
            UserError: the folder cannot be made, or is that of a set with other settings or prompts.
        """
        self.make_folder()
        with self.lock():
            if self.description_file.is_file():
                self._compare(dict(settings), prompts)
            elif any(self.images.glob("*.png")):
                raise UserError(
                    f"{self.images} holds images, but {self.description_file} is missing, so how they were made is not "
                    "known; take another --folder."
                )
            else:
                self._write_json({"settings": dict(settings), "prompts": prompts, "licence": licence, "runs": []})
        self._known = {row["file_name"]: row for row in read_manifest(self.manifest_file)}
        for stray in self.images.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - stray.stat().st_mtime > STALE:
                    stray.unlink()

    def description(self) -> dict[str, Any]:
        """The content of `dataset.json`.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_description(self.description_file)

    def row(self, index: int, prompt_index: int) -> Row | None:
        """The manifest's row of an image, or None where the image is missing or damaged."""
        return self._row(self.images / file_name(index, prompt_index))

    def write(self, pixels: npt.NDArray[np.uint8], record: Row) -> Row:
        """Write an image.

        Args:
            pixels: (H, W, 3) RGB.
            record: at least `index` and `prompt_index`; nothing that depends on time or machine.

        Returns:
            Its row of the manifest.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(CHUNK, json.dumps(record, ensure_ascii=False))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunk)
        path = self.images / file_name(record["index"], record["prompt_index"])
        with _told(path):
            write_atomically(path, buffer.getvalue())
        row = self._as_row(path, buffer.getvalue(), record)
        self._known[row["file_name"]] = row
        return row

    def remove(self, row: Row) -> None:
        """Delete the image of a row."""
        (self.folder / row["file_name"]).unlink(missing_ok=True)
        self._known.pop(row["file_name"], None)

    def rejected(self) -> dict[tuple[int, int], Row]:
        """What was painted and not taken, by (index, attempt)."""
        return {(row["index"], row["attempt"]): row for row in read_manifest(self.rejected_file)}

    def reject(self, rows: Iterable[Row]) -> None:
        """Add to the list of what was not taken; call it without the lock."""
        with self.lock():
            self.reject_locked(rows)

    def reject_locked(self, rows: Iterable[Row]) -> None:
        """The same, for who holds the lock."""
        all_rows = self.rejected() | {(row["index"], row["attempt"]): row for row in rows}
        self._write_rows(self.rejected_file, [all_rows[key] for key in sorted(all_rows)])

    def finish(self, run: Mapping[str, Any]) -> int:
        """Make manifest and card from what is there, and note what this run did.

        Returns:
            The number of images in the set.
        """
        with self.lock():
            rows = self.all_rows()
            self._write_rows(self.manifest_file, rows)
            content = self.description()
            content["runs"].append(dict(run))
            self._write_json(content)
            with _told(self.folder):
                text = card(self.folder.name, content, rows, list(self.rejected().values()))
                write_atomically(self.folder / "README.md", text)
        return len(rows)

    def all_rows(self) -> list[Row]:
        """The row of every image that is whole, sorted by index."""
        found = (self._row(path) for path in self.images.glob("*.png"))
        return sorted((row for row in found if row is not None), key=lambda row: row["index"])

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time; it waits for the others. Not to be taken twice."""
        with _told(self.folder):
            handle = (self.folder / ".lock").open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _row(self, path: Path) -> Row | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        known = self._known.get(f"images/{path.name}")
        if known is not None and known["sha256"] == hashlib.sha256(data).hexdigest():
            return known
        record = read_record(data)
        if record is None or path.name != file_name(record["index"], record["prompt_index"]):
            logger.warning(f"{path} is damaged, or none of this set's images.")
            return None
        row = self._as_row(path, data, record)
        self._known[row["file_name"]] = row
        return row

    def _as_row(self, path: Path, data: bytes, record: Row) -> Row:
        digest = hashlib.sha256(data).hexdigest()
        return {"file_name": f"images/{path.name}", **record, "size": len(data), "sha256": digest}

    def _compare(self, settings: dict[str, Any], prompts: list[str]) -> None:
        there = self.description()
        # Where the model lies may change; what it is must not.
        for key in [key for key in settings if key not in ("model", "revision")]:
            if (old := there["settings"].get(key)) != settings[key]:
                raise UserError(
                    f"{self.folder} was made with {key} {old}, and this run has {settings[key]}; "
                    "give the same settings to go on, or another --folder."
                )
        if there["prompts"] != prompts:
            raise UserError(
                f"{self.folder} was made with other prompts; give the same file to go on, or another --folder."
            )

    def _write_json(self, content: dict[str, Any]) -> None:
        with _told(self.description_file):
            write_atomically(self.description_file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _write_rows(self, path: Path, rows: list[Row]) -> None:
        with _told(path):
            write_rows(path, rows)


def read_record(data: bytes) -> Row | None:
    """The record in the bytes of an image; None where the image is damaged or has no record."""
    if is_truncated_png(data):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            record = json.loads(image.info[CHUNK])
    except (*DECODE_ERRORS, KeyError):
        return None
    return record if isinstance(record, dict) and {"index", "prompt_index"} <= record.keys() else None


def read_manifest(path: Path) -> list[Row]:
    """Return the rows of a `manifest.jsonl` or `rejected.jsonl`; an empty list if there is no such file.

    Raises:
        UserError: a line is not a JSON object.
    """
    return read_rows(path, "delete it, and the next run makes it from the images")


def read_description(path: Path) -> dict[str, Any]:
    """The content of a `dataset.json`.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}, which says how a generated set was made.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy.") from error
    return content


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the file system refuses, in one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room and run the same command again: what is written stays"
        else:
            hint = "check --output-root and --folder"
        raise UserError(f"Cannot write {path} ({os.strerror(error.errno or 0)}); {hint}.") from error
