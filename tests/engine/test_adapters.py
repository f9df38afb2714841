"""Adapters in the real loop, through the config: training, checkpoints, resuming, evaluation, loading, saving."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import clouds
from clouds.commands import train
from clouds.d2 import comm
from clouds.engine.launch import launch
from clouds.modeling.backbone.open_clip_models import load_open_clip
from tests.engine.joint import JOINT
from tests.engine.test_end_to_end import config, last_table, scores  # noqa: F401  (config is a fixture)
from tests.engine.test_processes import change, distance, flags, folder  # noqa: F401  (folder is a fixture)
from tests.engine.test_processes import train as train_in_process
from tests.engine.test_resume import same, trained
from tests.modeling.test_adapters import decompositions  # noqa: F401  (a fixture)
from tests.modeling.timm_folders import write_tower

pytestmark = pytest.mark.slow

ADAPTED = ("MODEL.ADAPTER.RANK", "4", "SOLVER.ADAPTER_DECAY", "cosine", "SOLVER.CHECKPOINT_PERIOD", "10")


@pytest.fixture
def file(config: Callable[..., str], tmp_path: Path) -> str:  # noqa: F811
    """The config of a small frozen CLIP that has its weights from a file."""
    config()
    weights = tmp_path / "clip.pt"
    torch.save(load_open_clip(str(tmp_path / "clip.json")).state_dict(), weights)
    return config(backbone="CLIP", weights=str(weights))


@pytest.mark.parametrize("name", ["LoRA", "SoMA"])
def test_train_resume_evaluate_load_and_save(
    file: str,
    tmp_path: Path,
    tiny_root: Path,
    capsys: pytest.CaptureFixture[str],
    decompositions: list[tuple[int, ...]],  # noqa: F811
    name: str,
) -> None:
    words = ["--config-file", file, "MODEL.ADAPTER.NAME", name, *ADAPTED, "OUTPUT_DIR"]
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    assert train.main([*words, str(run)]) == 0
    assert scores(run)[-1] > scores(run)[0] + 20

    # The factors alone are stored, and the tower is recognized as that of a frozen training.
    content = trained(run / "model_final.pth")
    stored = [key for key in content["model"] if key.startswith("backbone.")]
    copies = {"initial_A", "initial_B"} if name == "SoMA" else set()
    assert {key.rpartition(".")[2] for key in stored} == {"lora_A", "lora_B"} | copies
    layers = sum(key.endswith("lora_A") for key in stored)
    assert len(decompositions) == (layers if name == "SoMA" else 0)
    # A file has the size of head and adapter, each number with two of the optimizer; names take some 150 KB.
    size, tower = (path.stat().st_size for path in (run / "model_final.pth", tmp_path / "clip.pt"))
    assert size < 3 * sum(value.nbytes for value in content["model"].values()) + 200_000
    assert tower > 200_000
    frozen = ["--config-file", file, "OUTPUT_DIR", str(tmp_path / "frozen"), "SOLVER.MAX_ITER", "1"]
    assert train.main(frozen) == 0
    assert content["tower_sha256"] == trained(tmp_path / "frozen" / "model_final.pth")["tower_sha256"]

    # It is the start of an adapted training, too.
    start = ["MODEL.WEIGHTS", str(tmp_path / "frozen" / "model_final.pth"), "SOLVER.MAX_ITER", "1"]
    assert train.main([*words, str(tmp_path / "warm"), *start]) == 0
    assert "other frozen backbone weights" not in (tmp_path / "warm" / "log.txt").read_text()
    assert len(decompositions) == (2 * layers if name == "SoMA" else 0)
    decompositions.clear()

    # A resumed training has the bits of an uninterrupted one.
    shutil.copytree(run, resumed)
    for later in ("model_final.pth", "model_0000019.pth"):
        (resumed / later).unlink()
    (resumed / "last_checkpoint").write_text("model_0000009.pth")
    assert train.main(["--resume", *words, str(resumed)]) == 0
    assert "Starting training from iteration 10" in (resumed / "log.txt").read_text()
    assert same(trained(resumed / "model_final.pth"), content)

    weights = str(run / "model_final.pth")
    assert train.main(["--eval-only", *words, str(tmp_path / "eval"), "MODEL.WEIGHTS", weights]) == 0
    assert last_table(tmp_path / "eval") == last_table(run)

    # The adapter of a checkpoint replaces the one that the network was built with.
    model = clouds.load(run, device="cpu")
    image = tiny_root / "val" / "images" / "0.png"
    assert all(torch.equal(model.network.state_dict()[key], content["model"][key]) for key in stored)
    model.save_pretrained(tmp_path / "saved")
    again = clouds.load(tmp_path / "saved", device="cpu")
    assert (again.predict(image).labels == model.predict(image).labels).all()

    # Nor does a training that starts from it decompose a weight; see also what follows the warm start.
    assert train.main([*words, str(tmp_path / "fine"), "MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", "1"]) == 0
    assert decompositions == []

    capsys.readouterr()
    without = ["--config-file", file, "--eval-only", "OUTPUT_DIR", str(tmp_path / "eval"), "MODEL.WEIGHTS", weights]
    assert train.main(without) == 2
    assert "MODEL.ADAPTER" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SoMA", "Rein"])
def test_a_transformer_of_timm(
    config: Callable[..., str],  # noqa: F811
    tmp_path: Path,
    name: str,
) -> None:
    tower = (
        "MODEL.BACKBONE.NAME",
        "TimmTower",
        "MODEL.BACKBONE.TIMM.MODEL_NAME",
        str(write_tower(tmp_path / "t", "dinov3")),
    )
    linked = ("MODEL.ADAPTER.NAME", name, "MODEL.ADAPTER.TOKENS", "8", "SOLVER.MAX_ITER", "12", *ADAPTED)
    words, run = ["--config-file", config(backbone="CLIP"), *tower, *linked, "OUTPUT_DIR"], tmp_path / "run"
    assert train.main([*words, str(run)]) == 0
    content = trained(run / "model_final.pth")
    stored = [key for key in content["model"] if key.startswith("backbone.")]
    assert all(key.startswith("backbone.adapter.") or "lora_" in key or "initial_" in key for key in stored)
    (run / "model_final.pth").unlink()
    (run / "last_checkpoint").write_text("model_0000009.pth")
    assert train.main(["--resume", *words, str(run)]) == 0
    assert same(trained(run / "model_final.pth"), content)
    opts = ("MODEL.WEIGHTS", str(run / "model_final.pth"))
    assert train.main(["--eval-only", *words, str(tmp_path / "eval"), *opts]) == 0
    assert last_table(tmp_path / "eval") == last_table(run)


def train_soma(folder: Path) -> None:  # noqa: F811
    """Work of each process: the second finds other singular vectors, as another machine may."""
    if comm.get_rank() == 1:
        eigh = torch.linalg.eigh
        torch.linalg.eigh = lambda matrix: eigh(matrix + 0.1 * torch.eye(len(matrix)) * torch.arange(len(matrix)))
    out = folder / "run"
    opts = ["MODEL.BACKBONE.NAME", "CLIP", "MODEL.ADAPTER.NAME", "SoMA", "MODEL.ADAPTER.RANK", 4, "SOLVER.MAX_ITER", 1]
    torch.save(train_in_process(folder, out, opts)["weights"], out / f"{comm.get_rank()}.pt")


def test_two_processes_have_the_factors_of_the_first(folder: Path) -> None:  # noqa: F811
    launch(train_soma, flags(2), "cpu", (folder,))
    first, second = (torch.load(folder / "run" / f"{rank}.pt") for rank in (0, 1))
    copies = [key for key in first if key.endswith("initial_B")]
    assert copies
    assert all(first[key].any() for key in copies)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def train_each(folder: Path, name: str) -> None:  # noqa: F811
    """Work of each process: a joint training with each adapter; saves the results as `<name>/<adapter>/<rank>.pt`."""
    tower = ["MODEL.BACKBONE.NAME", "TimmTower", "MODEL.BACKBONE.TIMM.MODEL_NAME", str(folder / "tower")]
    for adapter in ("LoRA", "SoMA", "Rein"):
        out = folder / name / adapter
        options = ["MODEL.ADAPTER.NAME", adapter, "MODEL.ADAPTER.RANK", 4, "MODEL.ADAPTER.TOKENS", 8]
        torch.save(train_in_process(folder, out, [*JOINT, *tower, *options]), out / f"{comm.get_rank()}.pt")


def change_of_tower(run: dict) -> dict[str, torch.Tensor]:
    return {key: value for key, value in change(run).items() if key.startswith("backbone.")}


def test_two_processes_are_one(folder: Path) -> None:  # noqa: F811
    write_tower(folder / "tower", "dinov3")
    launch(train_each, flags(2), "cpu", (folder, "two"))
    train_each(folder, "one")
    for adapter in ("LoRA", "SoMA", "Rein"):
        one = torch.load(folder / "one" / adapter / "0.pt")
        first, second = (torch.load(folder / "two" / adapter / f"{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(value, second["weights"][key]) for key, value in first["weights"].items())
        assert all(torch.equal(value, second["teacher"][key]) for key, value in first["teacher"].items())
        assert any(key.startswith("backbone.") for key in first["teacher"])

        for step, losses in enumerate(one["losses"]):
            assert first["losses"][step] == pytest.approx(losses, rel=1e-4, abs=1e-6), (adapter, step)
        moved, expected = (change_of_tower(run) for run in (first, one))
        assert distance(moved, expected) < 1e-3, adapter
        assert distance(change(first), change(one)) < 1e-3, adapter
        assert distance(first["teacher"], one["teacher"]) < 1e-5

        stored = trained(folder / "two" / adapter / "model_final.pth")["model"]
        copies = {key for key in stored if "initial_" in key}
        assert {key for key in stored if key.startswith("backbone.")} - copies == moved.keys()
