"""Painter with pipelines of diffusers with a few thousand weights."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from clouds.errors import UserError
from clouds.generation.device import resolve_device, resolve_dtype
from clouds.generation.painter import SCHEDULERS, Painted, Painter
from clouds.generation.settings import PaintingSettings
from clouds.utils.hashing import write_sha256
from tests.generation.pipelines import SIZE, write_stable_diffusion

PROMPTS = ["a busy street", "bus in rain", "snow and fog", "people at night"]
SEEDS = [11, 2**63 - 1, 0, 7]


def painter(model: Path | str, batch_size: int = 4, **changes: object) -> Painter:
    settings = dataclasses.replace(PaintingSettings(model=str(model), steps=2), **changes)
    return Painter(settings, device="cpu", batch_size=batch_size)


def apart(ones: list[Painted], others: list[Painted]) -> int:
    """Return the largest difference between two lists of images, in grey levels."""
    return max(
        int(np.abs(one.pixels.astype(int) - other.pixels).max()) for one, other in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("model", ["stable_diffusion", "sdxl"])
def test_an_image_is_its_prompt_and_its_seed(model: str, request: pytest.FixtureRequest) -> None:
    paint = painter(request.getfixturevalue(model))
    together = paint(PROMPTS, SEEDS)
    assert [image.pixels.shape for image in together] == [(SIZE, SIZE, 3)] * 4
    assert together[0].pixels.dtype == np.uint8
    assert not any(image.flagged for image in together)
    assert apart(together, paint(PROMPTS, SEEDS)) == 0
    alone = [paint([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    assert apart(together, alone) <= 1
    turned = paint(PROMPTS[::-1], SEEDS[::-1])[::-1]
    assert apart(together, turned) <= 1
    # A different seed or prompt gives a different image.
    assert apart(alone[:1], paint(PROMPTS[:1], [12])) > 20
    assert apart(alone[:1], paint(PROMPTS[1:2], SEEDS[:1])) >= 1


@pytest.mark.parametrize("name", [*SCHEDULERS, "default"])
def test_schedulers(stable_diffusion: Path, name: str) -> None:
    paint = painter(stable_diffusion, scheduler=name)
    assert type(paint.pipeline.scheduler).__name__ == (SCHEDULERS[name][0] if name != "default" else "PNDMScheduler")
    together = paint(PROMPTS, SEEDS)
    # Schedulers that add noise at each step draw it for each image separately.
    assert apart(together[2:], paint(PROMPTS[2:], SEEDS[2:])) <= 1


def test_what_the_command_line_asks_for_arrives(stable_diffusion: Path) -> None:
    plain = painter(stable_diffusion)(PROMPTS[:1], [5])
    for changes in ({"guidance": 1.0}, {"steps": 3}, {"negative_prompt": "cars"}, {"dtype": "bf16"}):
        assert apart(plain, painter(stable_diffusion, **changes)(PROMPTS[:1], [5])) > 0, changes
    (wide,) = painter(stable_diffusion, height=16, width=48)(PROMPTS[:1], [5])
    assert wide.pixels.shape == (16, 48, 3)


def test_compiled_calls_are_full(stable_diffusion: Path) -> None:
    paint = painter(stable_diffusion)
    whole = paint(PROMPTS, SEEDS)
    sizes = []
    forward = paint.pipeline.unet.forward

    def measured(sample: torch.Tensor, *args: object, **kwargs: object) -> object:
        sizes.append(len(sample))
        return forward(sample, *args, **kwargs)

    paint.pipeline.unet.forward = measured
    paint.compile = True  # only the padding of batches is tested here, not torch.compile
    assert apart(whole[:3], paint(PROMPTS[:3], SEEDS[:3])) == 0
    assert set(sizes) == {8}  # four images, each with and without its prompt


def test_the_safety_checker_is_kept_and_heard(tmp_path: Path) -> None:
    paint = painter(write_stable_diffusion(tmp_path / "model", safety_checker=True))
    assert [image.flagged for image in paint(PROMPTS[:2], SEEDS[:2])] == [True, True]


def test_what_no_encoder_sees(stable_diffusion: Path, sdxl: Path) -> None:
    long = "a busy street in rain at night with people cars bus snow fog sun and people"
    for model in (stable_diffusion, sdxl):
        assert painter(model).truncated_prompts(["a bus", long]) == {1: "sun and people"}


def test_model_id_and_licence(stable_diffusion: Path, sdxl: Path, tmp_path: Path) -> None:
    first = painter(stable_diffusion)
    copy = Path(shutil.copytree(stable_diffusion, tmp_path / "copy"))
    (copy / "README.md").write_text("another card")
    second = painter(copy)
    assert first.model_id() == second.model_id() != painter(sdxl).model_id()
    assert first.licence() == "openrail++"
    assert second.licence() == "unknown"
    other = write_stable_diffusion(tmp_path / "other", seed=1)
    assert painter(other).model_id() != first.model_id()
    assert first.peak_memory() > 2**20
    assert set(first.versions()) >= {"torch", "diffusers"}


def test_a_model_of_the_hub(stable_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Cache in the layout of the hub's client: refs name commits, snapshots contain them.
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--streets"
    shutil.copytree(stable_diffusion, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("diffusers.utils.constants.HF_MODULES_CACHE", str(tmp_path / "modules"))
    paint = painter("someone/streets")
    assert paint.model_id() == commit
    assert paint.licence() == "openrail++"
    assert apart(paint(PROMPTS[:1], [1]), painter(stable_diffusion)(PROMPTS[:1], [1])) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "no/such_model"}, "'no/such_model' cannot be loaded: name a local folder or a model of the hub"),
        ({"scheduler": "eular"}, "--scheduler names 'eular'.*euler"),
        ({"height": 33}, r"--height is 33; for StableDiffusionPipeline it must be a multiple of 4 pixels"),
    ],
)
def test_what_cannot_be(stable_diffusion: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        painter(changes.pop("model", stable_diffusion), **changes)  # type: ignore[arg-type]


def test_folders_that_hold_something_else(stable_diffusion: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder without model_index\.json"):
        painter(tmp_path)
    broken = Path(shutil.copytree(stable_diffusion, tmp_path / "broken"))
    weights = next((broken / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded: check its files"):
        painter(broken)


def test_weights_that_differ_from_their_record(stable_diffusion: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(stable_diffusion, tmp_path / "copied"))
    weights = next((copied / "unet").glob("*.safetensors"))
    write_sha256(weights)
    painter(copied)
    content = weights.read_bytes()
    weights.write_bytes(content[:-64] + bytes(byte ^ 1 for byte in content[-64:]))
    with pytest.raises(UserError, match=r"check its files, .*\.safetensors is damaged \(its checksum differs\)"):
        painter(copied)


def test_devices_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_dtype("auto", "cpu") == "fp32"
    assert resolve_dtype("auto", "cuda:1") == "fp16"
    assert resolve_dtype("bf16", "cpu") == "bf16"
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        resolve_dtype("fp16", "cpu")
    with pytest.raises(UserError, match="--device gpu is no device"):
        resolve_device("gpu")
    with pytest.raises(UserError, match="--device meta is not on this machine"):
        resolve_device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, expected in ((4, "cuda:2"), (1, "cuda:0")):  # srun --gpus-per-task=1 shows one GPU to each process
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert resolve_device("auto", 2) == resolve_device("cuda", 2) == expected
    with pytest.raises(UserError, match=r"asks for GPU 2, but torch finds 1 GPU\(s\)"):
        resolve_device("cuda:2", 2)
    monkeypatch.undo()
    if not torch.cuda.is_available():
        assert resolve_device("auto") == "cpu"
        with pytest.raises(UserError, match="asks for GPU 0, but torch finds no GPU"):
            resolve_device("cuda")
