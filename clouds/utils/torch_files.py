"""Reading of weight files from untrusted sources: tensors and plain values only, no code of the file runs.

A file is compared with its record, if there is one: the checksums in a torch file, ``<file>.sha256`` beside a file of
any format, or the name that the cache of the Hugging Face hub gives it.
"""

import logging
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clouds.utils.hashing import RECORD, file_sha256
from clouds.utils.paths import user_path

logger = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

# Exceptions that torch, zipfile and safetensors raise on files that are truncated or of another format.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, OverflowError, SafetensorError),
)


def read_tensors(path: Path) -> Any:
    """Read a ``.safetensors`` file or a file of `torch.save`, onto the CPU, and compare it with its record.

    A file without a record is reported in one line of the log.

    Args:
        path: path of the file.

    Returns:
        The content of the file, such as a state dict.

    Raises:
        ValueError: the file is missing, damaged or different from its record, or holds more than tensors and plain
            values. The message is the reason in a few words, or the name of an exception, whose own text may be a page
            long.
    """
    if path.is_dir():
        raise ValueError("it is a folder")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise ValueError(type(error).__name__) from error
    verify(path)
    return content


def verify(path: Path) -> None:
    """Compare a weight file with its record; a file without a record is reported in one line of the log.

    Args:
        path: path of the file, of any format.

    Raises:
        ValueError: the file or its record is damaged, or they differ.
    """
    try:
        expected = _recorded_sha256(path)
        if expected:
            matches = file_sha256(path) == expected
        elif _is_zip(path):
            with zipfile.ZipFile(path) as archive:
                # torch can leave out the checksums, and then writes 0 for each.
                has_checksums = any(member.CRC for member in archive.infolist())
                expected = "the checksums in the file" if has_checksums else ""
                matches = not has_checksums or archive.testzip() is None
        else:
            matches = True
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, struct.error) as error:
        raise ValueError(f"its checksum differs: {type(error).__name__}") from error
    if not matches:
        raise ValueError("its checksum differs")
    if not expected:
        logger.info(f"{path} is not verified: it has no checksum, neither in the file nor in {path.name}{RECORD}")


def verify_model(model: str | Path) -> None:
    """Compare a weight file, or all weight files of a model's folder and its sub-folders, with their records.

    Args:
        model: path of the file or of the folder; other names, such as those of models of a hub, and "" are not checked.

    Raises:
        ValueError: a file differs from its record. The message begins with its path.
    """
    path = user_path(model)
    folder = path.is_dir() and model != ""  # "" would be the working directory
    for file in sorted(path.rglob("*")) if folder else [path]:
        if file.is_file() and (not folder or file.suffix in WEIGHT_SUFFIXES):
            try:
                verify(file)
            except ValueError as error:
                raise ValueError(f"{file} is damaged ({error})") from error


def _recorded_sha256(path: Path) -> str:
    """Return the 64 hexadecimal digits that are recorded for a file, "" if there is no record.

    Raises:
        ValueError: the record is damaged.
    """
    record = path.with_name(path.name + RECORD)
    if record.is_file():
        with record.open("rb") as file:
            match = re.match(rb"\\?([0-9a-fA-F]{64})(?=\s|$)", file.read(200))
        if match is None:
            raise ValueError(f"its record {record.name} is damaged")
        return match[1].decode().lower()
    # The cache of the hub names large files by their SHA-256 digest and links to them.
    stored = path.resolve() if path.is_symlink() else path
    return stored.name if stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name) else ""


def _is_zip(path: Path) -> bool:
    """Return whether a file begins like a zip archive, which is how torch tells its two formats apart."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
