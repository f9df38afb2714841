"""Reading of weight files from untrusted sources: tensors and plain values only, no code of the file runs."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

# Exceptions that torch, zipfile and safetensors raise on files that are truncated or of another format.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, OverflowError, SafetensorError),
)


def read_tensors(path: Path, *, verify: bool = False) -> Any:
    """Read a ``.safetensors`` file or a file of `torch.save`, onto the CPU.

    Args:
        path: path of the file.
        verify: whether to check the checksums in a torch file, which torch ignores.

    Returns:
        The content of the file, such as a state dict.

    Raises:
        ValueError: the file is missing or damaged, or holds more than tensors and plain values. The message is the
            name of the exception that says so; its text may be a page long.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if verify:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile("a checksum differs")
        return content
    except _DAMAGED as error:
        raise ValueError(type(error).__name__) from error
