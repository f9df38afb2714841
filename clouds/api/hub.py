"""Sharing of networks: saving them into a folder, and loading them from it or from a hub."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import HfApi, ModelHubMixin
from torch import nn

from clouds.api.card import LIBRARY, TAGS
from clouds.api.loading import (
    CONFIG,
    DESCRIPTION,
    WEIGHTS,
    Files,
    find_files,
    is_hub_id,
    load_trained,
    read_network_config,
)
from clouds.api.saving import CARD, TOWER_FILES, write_folder
from clouds.d2 import CfgNode
from clouds.errors import UserError
from clouds.utils.hub import download, upload
from clouds.utils.paths import user_path
from clouds.visualization.palette import Color

FILES = (WEIGHTS, CONFIG, DESCRIPTION, CARD, *TOWER_FILES)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class SharedNetwork(ModelHubMixin, library_name=LIBRARY, tags=[*TAGS], pipeline_tag="image-segmentation"):
    """Methods of `Segmenter` that save a network for others and load it.

    A frozen tower that anybody can load by its name, such as one of open_clip's tags, is named and not stored, and its
    digest is compared when the network is loaded. Another tower is stored.
    """

    network: nn.Module
    cfg: CfgNode
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    iterations: int

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        include_backbone: bool = False,
        link_backbone: bool = False,
        license: str = "unknown",
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the network into a folder: weights, config, classes and a card. See `clouds.api.saving`.

        The folder is complete or as it was before, even if the process is killed.

        Args:
            save_directory: new folder, empty folder, or folder of an earlier call.
            include_backbone: whether to store a frozen tower that anybody can load by its name, too.
            link_backbone: whether to name the folder or file of a frozen tower, relative to `save_directory`, instead
                of storing the tower: for several networks on this machine that share a tower.
            license: license of the weights in the card, as the hub names it, such as "cc-by-nc-4.0".
            repo_id: id on the hub, owner/name, for the card and the upload; default: the name of the folder.
            push_to_hub: whether to upload the folder, too.
            push_to_hub_kwargs: further arguments of `push_to_hub`.

        Returns:
            The URL of the commit with `push_to_hub`, otherwise None.

        Raises:
            UserError: the folder holds other files, or the hub refuses the upload.
            WriteError: the folder cannot be written.
            ValueError: `link_backbone` and `push_to_hub` are given: the hub would not have the tower.
        """
        if link_backbone and push_to_hub:
            raise ValueError("link_backbone names a tower of this machine, which push_to_hub does not upload")
        folder = user_path(save_directory)
        name = repo_id or folder.resolve().name
        self._save_pretrained(
            folder, include_backbone=include_backbone, link_backbone=link_backbone, license=license, name=name
        )
        return upload(folder, name, FILES, **push_to_hub_kwargs) if push_to_hub else None

    def _save_pretrained(
        self,
        save_directory: Path,
        *,
        include_backbone: bool = False,
        link_backbone: bool = False,
        license: str = "unknown",
        name: str = "",
    ) -> None:
        write_folder(
            save_directory,
            self.network,
            self.cfg,
            classes=self.classes,
            colors=self.colors,
            iterations=self.iterations,
            name=name or save_directory.name,
            license=license,
            include_backbone=include_backbone,
            link_backbone=link_backbone,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_backbone: bool = False,
        license: str = "unknown",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        **options: Any,
    ) -> str:
        """Upload the network to a hub, as `save_pretrained` writes it, in one commit.

        Args:
            repo_id: id on the hub, owner/name; the repository is created if it does not exist.
            include_backbone: see `save_pretrained`.
            license: see `save_pretrained`.
            private: whether a new repository is private; None for the default of its owner.
            token: token that may write; None for that of `hf auth login`.
            branch: branch of the commit; None for the main one.
            options: further arguments of `huggingface_hub.HfApi.upload_folder`, such as `commit_message`.

        Returns:
            The URL of the commit.

        Raises:
            UserError: the hub cannot be reached or refuses the upload.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "network"
            self._save_pretrained(folder, include_backbone=include_backbone, license=license, name=repo_id)
            return upload(folder, repo_id, FILES, private=private, token=token, branch=branch, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Load a network from a folder of `save_pretrained` or from a hub.

        The weights are safetensors and have to be complete: no key may be missing or unexpected.

        Args:
            pretrained_model_name_or_path: folder, or id on the hub, owner/name.
            force_download: whether to download files that are in the cache.
            token: token of the hub; None for that of `hf auth login`.
            cache_dir: folder of the cache; None for the usual one.
            local_files_only: whether to take the files from the cache only.
            revision: branch, tag or commit on the hub; None for the newest.
            model_kwargs: `config`, `options` and `device`, see `load`.

        Raises:
            UserError: there is no such network, it is private or not reachable, its weights are a pickle, do not fit,
                or belong to a tower with other weights.
        """
        # The mixin's own method asks the hub for a config.json, which these networks do not have.
        return cls._from_pretrained(
            model_id=str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            **model_kwargs,
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Self:
        files = shared_files(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls.from_files(files, **model_kwargs)

    @classmethod
    def from_files(
        cls,
        files: Files,
        config: str | Path | CfgNode | None = None,
        options: Sequence[Any] = (),
        device: str | torch.device = "auto",
    ) -> Self:
        """Load a network from its files, see `files_of`; see `load` for the other arguments and the errors."""
        cfg = read_network_config(files, config, options, device)
        trained = load_trained(files, cfg)
        construct: Callable[..., Self] = cls
        return construct(
            trained.network, cfg, classes=trained.classes, colors=trained.colors, iterations=trained.iterations
        )


def files_of(source: str | Path) -> Files:
    """Find the files of a network, and download those on a hub.

    Args:
        source: see `clouds.load`.

    Raises:
        UserError: there is no such network.
    """
    return shared_files(str(source)) if is_hub_id(source) else find_files(source)


def shared_files(
    model_id: str, *, revision: str | None = None, token: str | bool | None = None, **options: Any
) -> Files:
    """Find the files of `SharedNetwork.save_pretrained` in a folder or on a hub, from which they are downloaded.

    Args:
        model_id: folder, or id on the hub, owner/name.
        revision: branch, tag or commit on the hub; None for the newest.
        token: token of the hub; None for that of `hf auth login`.
        options: further arguments of `huggingface_hub.snapshot_download`.

    Raises:
        UserError: there is no such network, or it is incomplete.
    """
    folder = user_path(model_id)
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
    else:
        what = f"There is no folder {model_id}, and a network of this name cannot be loaded from the hub"
        folder = download(model_id, what, FILES, revision=revision, token=token, **options)
        names = _names_on_hub(model_id, folder, revision, token)
    _check_files(folder, names, model_id)
    return find_files(folder)


def _names_on_hub(model_id: str, folder: Path, revision: str | None, token: str | bool | None) -> list[str]:
    """Return the names of the files that are downloaded, and of all in the repository if the weights are missing."""
    if not (folder / WEIGHTS).is_file():
        try:
            return HfApi(token=token).list_repo_files(model_id, revision=revision)
        except OSError:  # without a network, the cache says what there is
            pass
    return sorted(path.name for path in folder.iterdir())


def _check_files(folder: Path, names: Sequence[str], source: str) -> None:
    """Check that a folder holds what `save_pretrained` writes.

    Args:
        folder: the folder.
        names: names of all files of the network, of which the folder may lack some.
        source: name of the network, for messages.
    """
    missing = [name for name in (WEIGHTS, CONFIG, DESCRIPTION) if not (folder / name).is_file()]
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if WEIGHTS in missing and pickles:
        raise UserError(
            f"{source} holds no {WEIGHTS}, only {pickles[0]}, a pickle, which could run code: load a checkpoint with "
            "clouds.load, or write one with `clouds convert`."
        )
    if missing:
        raise UserError(
            f"{source} lacks {' and '.join(missing)}: it is no network that save_pretrained has written, or it is "
            "incomplete."
        )
