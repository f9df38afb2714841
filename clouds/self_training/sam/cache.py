"""Embeddings on disk: generated images do not change, so SAM's encoder need see each, and its mirror, only once."""

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from clouds.errors import UserError
from clouds.self_training.sam.base import Embedding, Sam
from clouds.utils.atomic import write_atomically

logger = logging.getLogger(__name__)

# Only what is called so is counted and removed: the folder may hold other things.
_ENTRY = re.compile(r"[0-9a-f]{64}\.sam")
_HALF_WRITTEN = re.compile(r"[0-9a-f]{64}\.sam\..*\.part")
_ABANDONED = 3600.0  # seconds after which nobody is still writing a file
_DIGEST = hashlib.sha256().digest_size


class CachedSam(Sam):
    """Another SAM, with its embeddings kept in a folder.

    An entry's name is the hash of the image's pixels and of the SAM's `model_id`; it begins with a checksum. Entries
    are float16 (2 MB for one of 64 x 64 x 256), and so is what `encode` returns, found or just computed: a run gives
    the same masks with a full cache and with an empty one. (To the last bit of float16 only where an image was encoded
    in batches of the same size: a network rounds differently in another batch.)

    Several processes may share a folder. Entries appear in one piece, and one that another process has just removed is
    computed anew.
    """

    def __init__(self, sam: Sam, folder: Path, *, gigabytes: float) -> None:
        """
        Args:
            sam: computes what is missing.
            folder: made if it is not there.
            gigabytes: of entries in the folder (10^9 bytes), whoever wrote them. Where there is more, what was not used
                for the longest time goes; with several processes it can be a twentieth more for each.

        Raises:
            UserError: the folder cannot be written to, or there is to be no room in it.
        """
        if gigabytes <= 0:
            raise UserError(f"MODEL.CLOUDS.SAM.CACHE_SIZE is {gigabytes}; it must be above 0 (GB).")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(
                f"Cannot keep embeddings in the folder {folder} (MODEL.CLOUDS.SAM.CACHE_DIR): {error.strerror}."
            ) from error
        self.sam = sam
        self.folder = folder
        self.limit = int(gigabytes * 1e9)
        self._room = 0  # bytes to write until the folder is counted again

    @property
    def model_id(self) -> str:
        return self.sam.model_id

    def encode(self, images: Sequence[Tensor]) -> list[Embedding]:
        keys = [self.key(image) for image in images]
        entries = {key: self._read(key) for key in dict.fromkeys(keys)}
        found = {key: features for key, features in entries.items() if features is not None}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        for key, embedding in zip(missing, self.sam.encode(list(missing.values())), strict=True):
            found[key] = tuple(each.half() for each in embedding.features)
            self._write(key, found[key])
        return [
            Embedding((image.shape[1], image.shape[2]), found[key]) for key, image in zip(keys, images, strict=True)
        ]

    def predict(self, embedding: Embedding, points: Tensor) -> Tensor:
        return self.sam.predict(embedding, points)

    def key(self, image: Tensor) -> str:
        """The name of an image's (3, H, W) uint8 entry: 64 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.model_id} {tuple(image.shape)}".encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _read(self, key: str) -> tuple[Tensor, ...] | None:
        path = self.folder / f"{key}.sam"
        try:
            content = memoryview(path.read_bytes())
            os.utime(path)  # the last use is what decides who leaves
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("Embedding %s cannot be read (%s) and is computed anew", path, error.strerror)
            return None
        if _checksum(key, content[_DIGEST:]) != content[:_DIGEST]:
            logger.warning("Embedding %s is damaged and is computed anew", path)
            return None
        features = load(bytes(content[_DIGEST:]))
        return tuple(features[str(number)] for number in range(len(features)))

    def _write(self, key: str, features: tuple[Tensor, ...]) -> None:
        payload = save({str(number): each.cpu().contiguous() for number, each in enumerate(features)})
        size = _DIGEST + len(payload)
        if size > self._room:
            self._make_room(size)
        try:
            write_atomically(self.folder / f"{key}.sam", _checksum(key, payload) + payload)
        except OSError as error:  # a full disk, say; the embedding itself is there, and training need not stop
            logger.warning("An embedding cannot be kept in %s: %s", self.folder, error.strerror)
            return
        self._room -= size

    def _make_room(self, size: int) -> None:
        """Count the folder, and remove what was not used for the longest time until `size` bytes fit."""
        entries, total = [], 0
        for file in os.scandir(self.folder):
            with suppress(FileNotFoundError):  # another process has just removed or renamed it
                stat = file.stat()
                if _ENTRY.fullmatch(file.name):
                    entries.append((stat.st_mtime_ns, stat.st_size, file.path))
                    total += stat.st_size
                elif _HALF_WRITTEN.fullmatch(file.name) and stat.st_mtime < time.time() - _ABANDONED:
                    Path(file.path).unlink(missing_ok=True)
        batch = max(
            size, self.limit // 20
        )  # not one by one: to count a full folder takes as long as to encode an image
        if total + size > self.limit:
            for _, removed, path in sorted(entries):
                Path(path).unlink(missing_ok=True)
                total -= removed
                if total + batch <= self.limit:
                    break
        # Other processes write too: count again after a twentieth at the latest.
        self._room = max(size, min(batch, self.limit - total))


def _checksum(key: str, payload: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(payload)
    return digest.digest()
