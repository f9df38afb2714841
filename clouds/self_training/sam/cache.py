"""Cache of embeddings on disk: SAM encodes each generated image, and its mirror image, only once."""

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clouds.self_training.sam.base import Embedding, Sam
from clouds.utils.atomic import OptionalOutput, make_folder, write_atomically, writing

logger = logging.getLogger(__name__)

# Only files with such names are counted and removed: the folder may hold other files.
_ENTRY = re.compile(r"[0-9a-f]{64}\.sam")
_HALF_WRITTEN = re.compile(r"[0-9a-f]{64}\.sam\..*\.part")
_ABANDONED = 3600.0  # seconds after which an incomplete file is removed
_DIGEST = hashlib.sha256().digest_size
_LARGEST = torch.finfo(torch.half).max


class CachedSam(Sam):
    """SAM back end with a cache: it keeps the embeddings of another back end in a folder.

    The name of an entry is the hash of the image's pixels and of the back end's `model_id`; an entry begins with a
    checksum. Entries are float16 (2 MB for 64 x 64 x 256 numbers), and `encode` always returns float16, whether an
    entry was found or computed: a run gives equal masks with a full and with an empty cache.

    Several processes may share a folder. Entries are written atomically, and an entry that another process has removed
    is computed again.
    """

    def __init__(self, sam: Sam, folder: Path, *, gigabytes: float) -> None:
        """
        Args:
            sam: back end that computes missing embeddings.
            folder: folder of the cache; created if it does not exist.
            gigabytes: largest size of the cache, in units of 10^9 bytes. Above this size, the least recently used
                entries are removed. Each further process can exceed the size by a twentieth.

        Raises:
            WriteError: the folder cannot be created or written to.
        """
        if gigabytes <= 0:
            raise ValueError(f"gigabytes is {gigabytes}; it must be above 0")
        make_folder(folder)
        with writing(folder):
            tempfile.TemporaryFile(dir=folder).close()
        self.sam = sam
        self.prompts = sam.prompts
        self.folder = folder
        self.limit = int(gigabytes * 1e9)
        self._output = OptionalOutput(f"The cache of SAM's embeddings in {folder}")
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
            # The hidden states of a transformer may have a few very large numbers.
            found[key] = tuple(each.clamp(-_LARGEST, _LARGEST).half() for each in embedding.features)
            self._write(key, found[key])
        return [
            Embedding((image.shape[1], image.shape[2]), found[key]) for key, image in zip(keys, images, strict=True)
        ]

    def predict(self, embedding: Embedding, prompts: Any) -> Tensor:
        return self.sam.predict(embedding, prompts)

    def key(self, image: Tensor) -> str:
        """Return the name of the entry of an image (3, H, W) uint8: 64 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.model_id} {tuple(image.shape)}".encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _read(self, key: str) -> tuple[Tensor, ...] | None:
        path = self.folder / f"{key}.sam"
        try:
            content = memoryview(path.read_bytes())
            os.utime(path)  # the time of the last use decides which entries are removed
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("Embedding %s cannot be read (%s) and is computed again", path, error.strerror)
            return None
        features = _unpack(content[_DIGEST:]) if _checksum(key, content[_DIGEST:]) == content[:_DIGEST] else None
        if features is None:
            logger.warning("Embedding %s is damaged and is computed again", path)
        return features

    def _write(self, key: str, features: tuple[Tensor, ...]) -> None:
        payload = save({str(number): each.cpu().contiguous() for number, each in enumerate(features)})
        size = _DIGEST + len(payload)
        with self._output.attempt():
            if size > self._room:
                self._make_room(size)
            write_atomically(self.folder / f"{key}.sam", _checksum(key, payload) + payload)
            self._room -= size

    def _make_room(self, size: int) -> None:
        """Remove the least recently used entries until `size` bytes fit into the folder."""
        entries, total = [], 0
        for file in os.scandir(self.folder):
            with suppress(FileNotFoundError):  # removed or renamed by another process
                stat = file.stat(follow_symlinks=False)
                if _ENTRY.fullmatch(file.name):
                    entries.append((stat.st_mtime_ns, stat.st_size, file.path))
                    total += stat.st_size
                elif _HALF_WRITTEN.fullmatch(file.name) and stat.st_mtime < time.time() - _ABANDONED:
                    Path(file.path).unlink(missing_ok=True)
        # A twentieth at once, since counting a full folder takes as long as encoding an image.
        batch = max(size, self.limit // 20)
        if total + size > self.limit:
            for _, removed, path in sorted(entries):
                Path(path).unlink(missing_ok=True)
                total -= removed
                if total + batch <= self.limit:
                    break
        # Other processes write too: the folder is counted again after a twentieth at the latest.
        self._room = max(size, min(batch, self.limit - total))


def _unpack(payload: memoryview) -> tuple[Tensor, ...] | None:
    """Return the float16 feature maps of an entry; None if it holds anything else."""
    try:
        tensors = load(bytes(payload))
        features = tuple(tensors[str(number)] for number in range(len(tensors)))
    except (SafetensorError, KeyError):
        return None
    return features if features and all(each.dtype == torch.half for each in features) else None


def _checksum(key: str, payload: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(payload)
    return digest.digest()
