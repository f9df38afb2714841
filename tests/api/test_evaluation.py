"""The command ``clouds eval --model``: the scores of a network in a folder, without its training data."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import clouds
from clouds.commands import train
from clouds.commands.main import main
from clouds.d2 import DatasetCatalog, MetadataCatalog
from tests.api.conftest import TEXT_HEAD
from tests.engine.conftest import tiny_root  # noqa: F401  (a fixture)
from tests.engine.test_end_to_end import config, last_table  # noqa: F401  (config is a fixture)
from tests.hub_server import Hub, Repository, running_hub

DATASET = """
name: mine
folder: "{root}"
splits: {{val: {{images: "val/images/*.png", labels: "val/labels/*_labelTrainIds.png"}}}}
classes:
  - {{name: "{first}", color: [10, 20, 30]}}
  - {{name: grass, color: [40, 50, 60]}}
  - {{name: sky, color: [70, 80, 90]}}
encoding: train_ids
"""


def scores(folder: Path) -> dict[str, float]:
    """Return the scores of the only evaluation in an output folder."""
    [row] = [json.loads(line) for line in (folder / "metrics_eval.json").read_text().splitlines()]
    return {key.rpartition("/")[2]: value for key, value in row.items() if "/sem_seg/" in key}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("head", [(), TEXT_HEAD], ids=["closed", "text"])
def test_a_saved_network_has_the_scores_of_its_run(
    config: Callable[..., str],  # noqa: F811
    tiny_root: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sentence: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    hub: Hub,
    head: tuple[str, ...],
) -> None:
    """By the command of its card, from a file, and from a hub; the data sets of its config need not be there."""
    run, saved = tmp_path / "run", tmp_path / "elsewhere/saved"
    words = ["--config-file", config(backbone="CLIP"), *head, "SOLVER.CHECKPOINT_FROZEN", "True", "OUTPUT_DIR"]
    assert train.main([*words, str(run)]) == 0
    weights = ["MODEL.WEIGHTS", str(run / "model_final.pth")]
    assert train.main(["--eval-only", *words, str(tmp_path / "usual"), *weights]) == 0
    assert train.main(["--eval-only", "--model", str(run), "OUTPUT_DIR", str(tmp_path / "of run")]) == 0
    expected = scores(tmp_path / "usual")
    assert expected["mIoU"] > 20
    assert scores(tmp_path / "of run") == expected
    assert last_table(tmp_path / "of run") == last_table(tmp_path / "usual")

    clouds.load(run, device="cpu").save_pretrained(saved)
    hub.repositories["model", "somebody/streets"] = Repository({p.name: p.read_bytes() for p in saved.iterdir()})
    shutil.rmtree(run)
    (tmp_path / "clip.json").unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    [command] = re.findall(r"^clouds (eval .*)$", (saved / "README.md").read_text(), re.MULTILINE)
    assert main([*shlex.split(command), "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "of card")]) == 0
    assert scores(tmp_path / "of card") == expected

    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in ("plugin_train", "plugin_val"):
            catalog.pop(name)
    Path("mine.yaml").write_text(DATASET.format(root=tiny_root, first="road,street"))
    for number, network in enumerate((str(saved / "model.safetensors"), "somebody/streets")):
        output = tmp_path / f"shared {number}"
        flags = ["--eval-only", "--model", network, "--dataset", "mine.yaml"]
        assert train.main([*flags, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output)]) == 0
        assert scores(output) == expected
    capsys.readouterr()
    said = sentence(train.main, "--eval-only", "--model", "saved", "MODEL.DEVICE", "cpu")
    assert said.startswith("There is no data set called 'plugin_val'")

    Path("other.yaml").write_text(DATASET.format(root=tiny_root, first="highway"))
    flags = ["--eval-only", "--model", "saved", "--dataset", "other.yaml", "MODEL.DEVICE", "cpu"]
    if not head:
        said = sentence(train.main, *flags)
        assert "was trained on other classes than mine_val has (class 0 is 'road' in training and 'highway'" in said
    else:
        assert train.main([*flags, "OUTPUT_DIR", str(tmp_path / "other")]) == 0
        assert scores(tmp_path / "other").keys() >= {"mIoU", "IoU-highway"}


def test_a_dry_run(
    config: Callable[..., str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert train.main(["--config-file", config(), "OUTPUT_DIR", str(run), "SOLVER.MAX_ITER", "1"]) == 0
    before = sorted(run.iterdir())
    assert train.main(["--eval-only", "--dry-run", "--model", str(run), "MODEL.DEVICE", "cpu"]) == 0
    assert "The dry run has ended; it has written nothing" in capsys.readouterr().out
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "a"], "--model names a network to evaluate: give it to `clouds eval`, without --resume."),
        (["--eval-only", "--resume", "--model", "a"], "--model names a network to evaluate"),
        (["--eval-only", "--model", "a", "MODEL.WEIGHTS", "b"], "--model and MODEL.WEIGHTS both name a network"),
        (["--eval-only", "--model", "no/such.pth"], "There is no network at no/such.pth"),
        (["--eval-only"], "Give a config, for example --config-file configs/warmup/gta/train_gta.yaml, or the network"),
    ],
)
def test_sentences(words: list[str], message: str, sentence: Callable[..., str]) -> None:
    assert sentence(train.main, *words).startswith(message)
