"""Advice about what cannot be loaded from a hub fits the case."""

import errno

import pytest
import torch
from huggingface_hub import errors

from clouds.utils.hub import advice


def made(kind: type[BaseException], *causes: type[BaseException]) -> BaseException:
    """Return an exception with causes; those of the hub's client need an answer of a server to be constructed."""
    error = kind.__new__(kind)
    error.__cause__ = made(*causes) if causes else None
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; make room in the cache of the hub"),
        (OSError(errno.EACCES, "Permission denied"), "may not be read or written; check their permissions"),
        (MemoryError(), "there is not enough memory for it"),
        (torch.OutOfMemoryError("CUDA out of memory"), "there is not enough memory for it"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
        (made(errors.GatedRepoError), "accept the terms on its page of the hub and log in with `hf auth login`"),
        (made(OSError, errors.GatedRepoError), "accept the terms on its page"),
        (made(errors.RevisionNotFoundError), "but not the revision v9; check it"),
        (made(errors.RepositoryNotFoundError), "the hub has no such model, or it is private"),
        (made(OSError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled), "HF_HUB_OFFLINE is set"),
        (made(OSError, errors.LocalEntryNotFoundError, ConnectionError), "the hub cannot be reached"),
        (made(OSError, errors.HFValidationError), "there is no such folder"),
        (ValueError("no pipeline linked to Foo."), "name a local folder or a model of the hub (no pipeline linked"),
    ],
)
def test_advice(error: BaseException, says: str) -> None:
    assert says in advice(error, "owner/model", "v9")
    if "no pipeline" in says:
        return
    wrapped = OSError("cannot load")  # the libraries wrap what they do not raise themselves
    wrapped.__cause__ = error
    assert says in advice(wrapped, "owner/model", "v9")
