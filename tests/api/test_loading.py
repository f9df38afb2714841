"""`clouds.load`: where a network may lie, which classes it predicts, and what is said about files that do not fit."""

import json
import logging
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import clouds
from clouds.config import load_config
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.weights import read_checkpoint
from clouds.engine.run.record import Kind, new_run_id, write_record
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from tests.api.conftest import TEXT_HEAD
from tests.engine.conftest import CLASSES

OTHERS = ("pavement", "lawn", "clouds")
PLUGIN = f"""
from clouds.data.datasets import catalog

def register(root):
    catalog.register("nobody_train", list, classes={CLASSES})
    catalog.register("nobody_val", list, classes={OTHERS}, colors=[(1, 1, 1), (2, 2, 2), (3, 3, 3)])
"""


@pytest.fixture
def closed_copy(closed: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(closed, tmp_path / "run"))


def weights_of(model: clouds.Segmenter) -> torch.Tensor:
    return model.network.sem_seg_head.predictor.query_feat.weight


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_place_is_the_same_network(closed: Path, tmp_path: Path) -> None:
    expected = weights_of(clouds.load(closed))
    checkpoint = shutil.copy(closed / "model_final.pth", tmp_path)
    config = closed / "config.yaml"
    for model in (
        clouds.load(str(closed)),
        clouds.load(closed / "model_final.pth"),
        clouds.load(checkpoint, config=config),
        clouds.load(checkpoint, config=str(config), device="cpu"),
        clouds.load(checkpoint, config=load_config(config)),
        clouds.load(closed, device=torch.device("cpu")),
    ):
        assert torch.equal(weights_of(model), expected)
        assert model.classes == CLASSES
        assert not model.network.training
        assert model.cfg.is_frozen()
        assert model.cfg.MODEL.DEVICE in ("cpu", "cuda")


def test_the_newest_checkpoint_of_a_run_that_is_not_complete(closed_copy: Path) -> None:
    final = closed_copy / "model_final.pth"
    content = torch.load(final)
    for iteration in (9, 19):
        content["model"]["sem_seg_head.predictor.query_feat.weight"].fill_(iteration)
        torch.save(content, closed_copy / f"model_{iteration:07d}.pth")
    assert weights_of(clouds.load(closed_copy))[0, 0] != 19
    final.unlink()
    assert weights_of(clouds.load(closed_copy))[0, 0] == 19


def test_a_run_knows_its_newest_config_and_its_folder(
    closed_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config names the tower relative to the folder in which the training was started."""
    cfg = load_config(closed_copy / "config.yaml")
    (tmp_path / "towers").mkdir()
    shutil.copy(cfg.MODEL.CLOUDS.CLIP_MODEL_NAME, tmp_path / "towers" / "mine.json")
    cfg.MODEL.CLOUDS.CLIP_MODEL_NAME = "towers/mine.json"
    (closed_copy / "config.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    run = new_run_id()
    write_record(closed_copy, cfg, Namespace(), Kind.TRAINING, run)
    cfg.INPUT.TEST_SHORT_EDGE = 40
    write_record(closed_copy, cfg, Namespace(), Kind.RESUMED, run)
    monkeypatch.chdir("/")
    model = clouds.load(closed_copy)
    assert model.cfg.INPUT.TEST_SHORT_EDGE == 40
    assert model.cfg.MODEL.CLOUDS.CLIP_MODEL_NAME == str(tmp_path / "towers" / "mine.json")


def test_options_replace_values_of_the_config(closed: Path) -> None:
    model = clouds.load(closed, options=["INPUT.TEST_SHORT_EDGE", 24, "TEST.AMP", "True"])
    assert (model.cfg.INPUT.TEST_SHORT_EDGE, model.cfg.TEST.AMP) == (24, True)
    again = clouds.load(closed, config=model.cfg, options=["INPUT.TEST_SHORT_EDGE", "32"])
    assert (again.cfg.INPUT.TEST_SHORT_EDGE, again.cfg.TEST.AMP) == (32, True)
    with pytest.raises(UserError, match=r"MODEL\.DEVICE is cuda:77, but torch finds no such GPU"):
        clouds.load(closed, options=["MODEL.DEVICE", "cuda:77"])
    with pytest.raises(UserError, match=r"Unknown config key INPUT\.TEST_SHORT_EGDE on the command line"):
        clouds.load(closed, options=["INPUT.TEST_SHORT_EGDE", 24])


def test_it_is_quiet(
    closed: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    with caplog.at_level(logging.WARNING):
        clouds.load(closed).predict(images[0])
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


def test_a_text_head_predicts_the_classes_of_the_test_set_if_it_is_here(
    save_run: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING)
    folder = save_run(*TEXT_HEAD)
    model = clouds.load(folder)
    assert model.classes == model.network.test_classes == CLASSES
    assert warnings_in(caplog)[-1].startswith(
        "The classes are those of the training, because a data set of the config is missing: The plug-in"
    )
    caplog.clear()
    (tmp_path / "plugin_of_nobody.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    model = clouds.load(folder)
    del sys.modules["plugin_of_nobody"]
    assert model.classes == model.network.test_classes == OTHERS
    assert model.network.train_classes == CLASSES
    assert model.colors == ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert warnings_in(caplog) == []


def test_the_ensemble_of_an_evaluation_knows_the_classes_of_the_training(text: Path) -> None:
    """The config may name other training sets than the checkpoint records, as with --dataset."""
    model = clouds.load(text)
    network = Trainer.build_model(model.cfg, train_classes=OTHERS, test_classes=OTHERS)
    content = read_checkpoint(text / "model_final.pth")
    Checkpointer(network, complete=True).restore(content, "model_final.pth")
    assert network.train_classes == model.network.train_classes == CLASSES
    assert network.test_classes == OTHERS


def test_a_module_that_needs_what_is_not_installed(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_of_nobody.py").write_text("import a_package_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    assert clouds.load(closed).classes == CLASSES


def test_a_checkpoint_without_names_needs_its_data_sets(closed_copy: Path) -> None:
    content = torch.load(closed_copy / "model_final.pth")
    del content["classes"]
    torch.save(content, closed_copy / "model_final.pth")
    with pytest.raises(UserError, match="plug-in for data sets 'plugin_of_nobody' is not a Python module"):
        clouds.load(closed_copy)
    text = (closed_copy / "config.yaml").read_text()
    settings = yaml.safe_load(text)
    settings["DATASETS"] |= {"MODULES": [], "TRAIN": [], "TEST": []}
    (closed_copy / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=r"NUM_CLASSES is 3, but DATASETS\.TRAIN \(\) has 19 classes"):
        clouds.load(closed_copy)


def test_a_described_folder_imports_nothing_that_its_config_names(
    closed_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_of_nobody.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    (closed_copy / "clouds.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    assert clouds.load(closed_copy).classes == ("a", "b", "c")
    (closed_copy / "clouds.json").write_text("{}")
    with pytest.raises(UserError, match=r"clouds\.json names no classes: save the network again"):
        clouds.load(closed_copy)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing", r"There is no network at nothing \(.*\): give a checkpoint, the output folder"),
        ("no/such/folder/model.pth", r"There is no network at no/such/folder/model\.pth"),
        ("empty", r"The folder empty holds no weights, neither model\.safetensors nor model_final\.pth"),
        ("model_final.pth", r"There is no config\.yaml beside model_final\.pth: give the YAML file that the network"),
        ("http://127.0.0.1:9/model.pth", r"Cannot download http://127\.0\.0\.1:9/model\.pth \(.*\): check the URL"),
        ("notes.pth", r"Cannot read weights from notes\.pth: the file is damaged"),
    ],
)
def test_what_is_not_there(
    source: str, said: str, closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    shutil.copy(closed / "model_final.pth", tmp_path)
    (tmp_path / "notes.pth").write_text("notes")
    with pytest.raises(UserError, match=said):
        clouds.load(source, config=closed / "config.yaml" if source == "notes.pth" else None)


def test_what_does_not_fit(closed: Path, closed_copy: Path) -> None:
    with pytest.raises(UserError, match=r"is a checkpoint of another model: .* check MODEL\.\*"):
        clouds.load(closed, options=["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 9])
    with pytest.raises(UserError, match=r"MODEL\.DEVICE is cuda:77, but torch finds no such GPU"):
        clouds.load(closed, device="cuda:77")
    for device in ("gpu", None):
        with pytest.raises(UserError, match=rf"MODEL\.DEVICE is '{device}', which torch does not know"):
            clouds.load(closed, device=device)
    for key, argument in (("MODEL.DEVICE", "device"), ("MODEL.WEIGHTS", "source")):
        with pytest.raises(UserError, match=f"options has {key}, which would have no effect: .* value as {argument}"):
            clouds.load(closed, options=[key, "cpu"], device="cpu")
    with pytest.raises(UserError, match=r"Config file .*/no\.yaml does not exist"):
        clouds.load(closed, config=closed / "no.yaml")
    (closed_copy / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"There is no config\.yaml beside .*model_final\.pth"):
        clouds.load(closed_copy)


def test_a_head_without_text_predicts_the_classes_of_its_training(
    closed: Path, caplog: pytest.LogCaptureFixture, images: list[Path]
) -> None:
    options = ["DATASETS.MODULES", "()", "DATASETS.TEST", "('cityscapes_val',)"]
    model = clouds.load(closed, options=options)
    assert model.classes == model.network.test_classes == CLASSES
    assert warnings_in(caplog) == [
        "The classes are those of the training, because cityscapes_val has others: 3 in training and 19 there"
    ]
    assert (model.predict(images[0]).labels == clouds.load(closed).predict(images[0]).labels).all()
