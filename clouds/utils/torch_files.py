"""Reading of weight files from untrusted sources: tensors and plain values only, no code of the file runs.

A file is compared with its record, if there is one: the checksums in a torch file, ``<file>.sha256`` beside a file of
any format, or the name that the cache of the Hugging Face hub gives it.
"""

import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from clouds.utils.atomic import write_atomically
from clouds.utils.hashing import RECORD, file_sha256
from clouds.utils.paths import user_path
from clouds.utils.pickles import NUMPY_NAMES, RefusedPickle, plain, read_pickle

logger = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

# Exceptions that torch, zipfile and safetensors raise on files that are truncated or of another format.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, OverflowError, SafetensorError),
)


def read_tensors(path: Path, sha256: str = "") -> Any:
    """Read a ``.safetensors`` file, a file of `torch.save` or a ``.pkl``, onto the CPU, and compare it with its record.

    A file without a record is reported in one line of the log. NumPy arrays in dicts become tensors.

    Args:
        path: path of the file.
        sha256: SHA-256 digest that the file must have, 64 hexadecimal digits, instead of a record; "" for none.

    Returns:
        The content of the file, such as a state dict.

    Raises:
        ValueError: the file is missing, damaged or different from its record, or holds more than tensors, arrays and
            plain values. The message is the reason in a few words, or the name of an exception, whose own text may be a
            page long.
    """
    if path.is_dir():
        raise ValueError("it is a folder")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif path.suffix == ".pkl" and not _is_zip(path):
            content = read_pickle(path, torch.from_numpy)
        else:
            with torch.serialization.safe_globals(NUMPY_NAMES):
                content = plain(torch.load(path, map_location="cpu", weights_only=True), torch.from_numpy)
    except RefusedPickle:
        raise
    except _DAMAGED as error:
        # torch names what a file asks for on the second page of its text.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"it asks for {asked[1]}" if asked else type(error).__name__) from error
    verify(path, sha256)
    return content


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a ``.safetensors`` file atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    copies = {name: each.detach().to("cpu", copy=True).contiguous() for name, each in tensors.items()}
    write_atomically(path, save(copies, metadata={"format": "pt"}))


def verify(path: Path, sha256: str = "") -> None:
    """Compare a weight file with its record; a file without a record is reported in one line of the log.

    Args:
        path: path of the file, of any format.
        sha256: digest that the file must have instead of its record; "" for none.

    Raises:
        ValueError: the file or its record is damaged, or they differ.
    """
    try:
        expected = sha256 or _recorded_sha256(path)
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
