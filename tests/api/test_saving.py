"""Folders of saved networks: they predict the same, are complete or not written, and errors are sentences."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import clouds
from clouds.api.segmenter import Segmenter
from clouds.commands import predict
from clouds.config import load_config
from clouds.errors import UserError, WriteError
from clouds.utils.hashing import file_sha256
from tests.api.conftest import same
from tests.engine.conftest import CLASSES

TOWER = "backbone.clip_model."


@pytest.fixture
def saved(closed: Path, tmp_path: Path) -> Path:
    clouds.load(closed, device="cpu").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


CASES = {
    "a trained tower": [],
    "a frozen tower from a folder": ["MODEL.BACKBONE.NAME", "CLIP", "MODEL.CLOUDS.CLIP_MODEL_NAME", "{clip}"],
    "text": [
        *("MODEL.BACKBONE.NAME", "CLIP", "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE", True),
        *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_predicts_the_same(
    save_run: Callable[..., Path], clip_folder: Path, images: list[Path], tmp_path: Path, case: str
) -> None:
    run = save_run(*(str(word).replace("{clip}", str(clip_folder)) for word in CASES[case]))
    model = clouds.load(run, device="cpu")
    assert model.save_pretrained(tmp_path / "saved") is None
    moved = (tmp_path / "saved").rename(tmp_path / "elsewhere")
    names = {path.name for path in moved.iterdir()}
    tower = next(name for name in names if name.startswith("clip_"))
    assert names == {"model.safetensors", "config.yaml", "clouds.json", "README.md", tower}
    for name in ("config.yaml", "clouds.json", "README.md", tower):
        assert "/tmp" not in (moved / name).read_text() and str(run) not in (moved / name).read_text()
    shutil.rmtree(run)
    loaded = [clouds.load(moved, device="cpu"), Segmenter.from_pretrained(moved, device="cpu")]
    assert all(same(model, each, images[0]) for each in loaded)
    assert loaded[0].network.train_classes == loaded[0].classes == CLASSES
    # A loaded network is saved again with the same weights, config and classes, into the folder that it came from.
    before = {name: (moved / name).read_bytes() for name in ("model.safetensors", "config.yaml", "clouds.json")}
    loaded[0].save_pretrained(moved)
    assert {name: (moved / name).read_bytes() for name in before} == before
    assert {path.name for path in moved.iterdir()} == names


def test_a_tower_of_timm(save_run: Callable[..., Path], images: list[Path], tmp_path: Path) -> None:
    weights = tmp_path / "tower.safetensors"
    torch.manual_seed(3)
    tower = timm.create_model("test_vit")
    save_file(tower.state_dict(), weights)
    opts = ["MODEL.BACKBONE.NAME", "TimmTower", "MODEL.ADAPTER.NAME", "LoRA", "MODEL.ADAPTER.RANK", 2]
    opts += ["MODEL.BACKBONE.TIMM.MODEL_NAME", "test_vit", "MODEL.BACKBONE.TIMM.WEIGHTS", weights]
    model = clouds.load(save_run(*opts), device="cpu")
    model.save_pretrained(tmp_path / "saved")
    weights.unlink()
    [described] = (tmp_path / "saved").glob("timm_*")
    assert [path.name for path in described.iterdir()] == ["config.json"]
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        *("model.safetensors", "config.yaml", "clouds.json", "README.md", described.name)
    }
    assert str(tmp_path) not in (tmp_path / "saved/config.yaml").read_text()
    assert json.loads((tmp_path / "saved/clouds.json").read_text())["backbone"] == {
        "name": described.name,
        "pretrained": "",
        "stored": True,
    }
    assert same(model, clouds.load(tmp_path / "saved", device="cpu"), images[0])


def test_the_config_is_complete_and_of_no_machine(closed: Path, tmp_path: Path) -> None:
    own = ["TEST.PROTOCOLS", ("rein_512", "file_of_this_machine.yaml")]
    clouds.load(closed, device="cpu", options=own).save_pretrained(tmp_path / "saved")
    before, after = (load_config(folder / "config.yaml") for folder in (closed, tmp_path / "saved"))
    assert after.DATASETS.MODULES == () and before.DATASETS.MODULES == ("plugin_of_nobody",)
    assert (after.MODEL.DEVICE, after.OUTPUT_DIR, after.MODEL.WEIGHTS) == ("auto", "./output", "")
    assert (after.DATASETS.TRAIN, after.INPUT, after.SOLVER) == (before.DATASETS.TRAIN, before.INPUT, before.SOLVER)
    assert after.TEST.PROTOCOLS == ("rein_512",)
    assert after.MODEL.MASK_FORMER == before.MODEL.MASK_FORMER
    assert len(after.MODEL.PIXEL_MEAN) == 3


def test_the_command_of_the_card(saved: Path, images: list[Path], tmp_path: Path) -> None:
    [command] = re.findall(r"^clouds predict .*$", (saved / "README.md").read_text(), re.MULTILINE)
    assert command == f"clouds predict --model {saved.name} street.jpg --output out"
    expected = clouds.load(saved, device="cpu").predict(images[0]).labels
    config = ["--config-file", str(saved / "config.yaml")]
    for number, network in enumerate(
        (
            ["--model", str(saved)],
            ["--model", str(saved / "model.safetensors"), *config],
            [*config, "MODEL.WEIGHTS", str(saved / "model.safetensors")],
        )
    ):
        output = tmp_path / str(number)
        assert predict.main([str(images[0]), "--output", str(output), *network, "MODEL.DEVICE", "cpu"]) == 0
        assert np.array_equal(np.asarray(Image.open(output / "0_labels.png")), expected)


def test_a_tower_of_this_machine_is_linked(
    clip_folder: Path, save_run: Callable[..., Path], images: list[Path], tmp_path: Path
) -> None:
    opts = ["MODEL.BACKBONE.NAME", "CLIP", "MODEL.CLOUDS.CLIP_MODEL_NAME", str(clip_folder)]
    network = clouds.load(save_run(*opts), device="cpu")
    tower = tmp_path / "weights/clip"
    shutil.copytree(clip_folder, tower)
    linked = clouds.load(network.cfg.MODEL.WEIGHTS, device="cpu", options=[opts[2], str(tower)])
    linked.save_pretrained(tmp_path / "weights/segmenter", link_backbone=True)
    assert not any(key.startswith(TOWER) for key in load_file(tmp_path / "weights/segmenter/model.safetensors"))
    shutil.move(tmp_path / "weights", tmp_path / "moved")
    moved = clouds.load(tmp_path / "moved/segmenter", device="cpu")
    assert moved.cfg.MODEL.CLOUDS.CLIP_MODEL_NAME == str(tmp_path / "moved/segmenter/../clip")
    assert same(network, moved, images[0])
    with pytest.raises(ValueError, match="does not upload"):
        linked.save_pretrained(tmp_path / "other", link_backbone=True, push_to_hub=True)


def resave(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of a saved network, and its digest of them."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    description = json.loads((folder / "clouds.json").read_text())
    description["weights_sha256"] = file_sha256(folder / "model.safetensors")
    (folder / "clouds.json").write_text(json.dumps(description))


KEY = "sem_seg_head.predictor.query_feat.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.update(more=torch.ones(1)), r"\(missing: none; unexpected: 1 \(more\)\): save the network again"),
        (lambda w: w.pop("criterion.empty_weight"), r"\(missing: 1 \(criterion\.empty_weight\); unexpected: none\)"),
        (lambda w: w.pop(KEY), rf"lacks 1 \({KEY}\) of this model"),
        (lambda w: w.update({KEY: torch.ones(3)}), rf"'{KEY}' is \(3,\) in the file and"),
        (lambda w: w.update({KEY: w[KEY] / 0}), rf"'{KEY}' is not finite"),
    ],
)
def test_weights_have_to_fit(saved: Path, change: Callable[[Any], object], says: str) -> None:
    resave(saved, change)
    with pytest.raises(UserError, match=says) as caught:
        clouds.load(saved, device="cpu")
    assert str(saved / "model.safetensors") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.safetensors", None, "lacks model.safetensors: it is no network that save_pretrained has written, or"),
        ("clouds.json", None, "lacks clouds.json"),
        ("config.yaml", None, "lacks config.yaml"),
        ("clouds.json", "{}", "clouds.json names no classes: save the network again."),
        ("clouds.json", "{", "clouds.json is damaged"),
        ("clouds.json", '{"classes": ["a"], "colors": [[1, 2]]}', "'colors' is [[1, 2]] and should be a list"),
        ("clouds.json", '{"classes": ["a"], "weights_sha256": "00"}', "its checksum differs"),
        ("model.safetensors", "", "model.safetensors: the file is damaged"),
    ],
)
def test_files_have_to_be_there(saved: Path, name: str, content: str | None, says: str) -> None:
    (saved / name).unlink()
    if content is not None:
        (saved / name).write_text(content)
    with pytest.raises(UserError) as caught:
        Segmenter.from_pretrained(saved, device="cpu")
    assert says in str(caught.value)
    assert str(saved) in str(caught.value)


def test_a_folder_with_other_files_is_refused(closed: Path, tmp_path: Path) -> None:
    model = clouds.load(closed, device="cpu")
    with pytest.raises(UserError, match=r"holds other files, such as c\.yaml: save the network into a new folder"):
        model.save_pretrained(closed)
    (tmp_path / "file").touch()
    for folder in ("file", "file/folder"):
        with pytest.raises(WriteError, match="cannot be written"):
            model.save_pretrained(tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "empty/.git").mkdir(parents=True)
    model.save_pretrained(tmp_path / "empty")
    assert (tmp_path / "empty/clouds.json").is_file() and (tmp_path / "empty/.git").is_dir()


def test_a_save_that_fails_changes_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = clouds.load(saved, device="cpu")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with torch.no_grad():
        model.network.sem_seg_head.predictor.query_feat.weight.add_(1)

    def full(*args: object) -> None:
        raise WriteError(28, "No space left on device", "README.md")

    monkeypatch.setattr("clouds.api.saving.model_card", full)
    for folder in (saved, saved.parent / "new"):
        with pytest.raises(WriteError):
            model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_card(closed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(closed, tmp_path / "run"))
    [train_set] = load_config(run / "config.yaml").DATASETS.TRAIN
    # The checkpoint is that after two iterations, and so are the scores of the second row.
    rows = [
        {"iteration": 0, "total_loss": 1.0, "plugin_val/sem_seg/mIoU": 10.0},
        {"iteration": 1, "total_loss": 1.0, "plugin_val/sem_seg/mIoU": 61.234, "plugin_val/sem_seg/IoU-sky": 5.0},
        {"iteration": 2, "total_loss": 1.0},
    ]
    (run / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clouds.load(run, device="cpu").save_pretrained(tmp_path / "streets", license="mit")
    clouds.load(tmp_path / "streets", device="cpu").save_pretrained(tmp_path / "again", license="mit")
    for name in ("streets", "again"):
        text = (tmp_path / name / "README.md").read_text()
        front = yaml.safe_load(text.split("---\n")[1])
        [result] = front.pop("model-index")[0]["results"]
        assert front == {
            "license": "mit",
            "library_name": "clouds",
            "pipeline_tag": "image-segmentation",
            "tags": ["semantic-segmentation", "domain-generalization", "open-vocabulary", "mask2former", "clip"],
            "metrics": ["mean_iou"],
        }
        assert (result["dataset"]["name"], result["metrics"][0]["value"]) == ("plugin_val", 61.23)
        for line in (
            f"# {name}",
            "| data set | mIoU |",
            "|---|--:|",
            "| plugin_val | 61.23 |",
            f"| training data | {train_set} |",
            "| iterations | 2 |",
            f'model = clouds.load("{name}")',
        ):
            assert f"\n{line}\n" in text, line
        assert "3 classes: road, grass, sky." in text
        assert "protocol `full_resolution`" in text
        assert "\n\n\n" not in text
    clouds.load(closed, device="cpu").save_pretrained(tmp_path / "without")
    text = (tmp_path / "without/README.md").read_text()
    assert "No scores are recorded with these weights." in text
    assert "license: unknown\n" in text and "ask the owner before you use them" in text
