"""Generated sets on a hub: a repository of the kind "dataset" with the files of the set's folder."""

import contextlib
import shutil
from pathlib import Path

from clouds.errors import UserError
from clouds.generation.records import check_belongs, read_description, read_manifest
from clouds.utils.atomic import make_folder, writing
from clouds.utils.hashing import file_sha256
from clouds.utils.hub import download, upload

FILES = ("images/*.png", "manifest.jsonl", "rejected.jsonl", "dataset.json", "README.md")
"""Files of a set; others in its folder, such as locks, are not shared."""


def upload_set(folder: Path, name: str, *, private: bool | None = None) -> str:
    """Upload a complete set with its card, which has its prompts, its model and the license of its images.

    Args:
        folder: folder of the set.
        name: name of the repository, owner/name; it is created if it does not exist.
        private: whether a new repository is private; None for the default of its owner.

    Returns:
        The URL of the commit.

    Raises:
        UserError: the set is damaged, or the hub cannot be reached or refuses it.
    """
    _check(folder, f"{folder} cannot be uploaded", "generate the set again with its command")
    message = f"Upload the generated set {folder.name}"
    return upload(folder, name, FILES, repo_type="dataset", private=private, commit_message=message)


def download_set(name: str, folder: Path, *, revision: str | None = None) -> int:
    """Download a set into a new folder, which appears when all of its images are there and have their digests.

    A call that was interrupted is continued by the same call.

    Args:
        name: name of the repository, owner/name.
        folder: new folder of the set.
        revision: branch, tag or commit; None for the newest.

    Returns:
        The number of images.

    Raises:
        UserError: the folder exists, the repository cannot be loaded or holds no generated set, or a file is damaged.
        WriteError: the folder cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: give another --folder, or move it away.")
    part = folder.with_name(f".{folder.name}.part")  # hidden, so that it is no data set
    make_folder(part)
    what = f"The generated set {name!r} cannot be loaded"
    download(name, what, FILES, revision=revision, repo_type="dataset", local_dir=part)
    images = _check(part, what, "ask its owner for the complete set, or give another --revision")
    with writing(folder):
        shutil.rmtree(part / ".cache", ignore_errors=True)
        part.rename(folder)
    return images


def _check(folder: Path, what: str, remedy: str) -> int:
    """Check that a folder holds a complete set; returns the number of its images.

    Raises:
        UserError: a file is missing or damaged; the message begins with `what` and ends with `remedy`.
    """
    description = read_description(folder / "dataset.json")
    rows = read_manifest(folder / "manifest.jsonl")
    check_belongs(folder / "manifest.jsonl", rows, description["prompts"], description["settings"]["seed"])
    if not rows:
        raise UserError(f"{what}: {folder / 'manifest.jsonl'} has no images; {remedy}.")
    for row in rows:
        digest = ""
        with contextlib.suppress(OSError):
            digest = file_sha256(folder / row["file_name"])
        if digest != row["sha256"]:
            state = "differs from its manifest" if digest else "is missing"
            raise UserError(f"{what}: its image {row['file_name']} {state}; {remedy}.")
    return len(rows)
