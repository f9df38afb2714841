"""train_net.py: mistakes on the command line are reported in one sentence with exit code 2."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clouds.commands import train
from clouds.errors import MESSAGE_LENGTH

ROOT = Path(__file__).resolve().parents[2]
GTA = str(ROOT / "configs/warmup/gta/train_gta.yaml")


@pytest.mark.parametrize("flags", [[], ["--eval-only"], ["--resume"]])
def test_no_config(sentence: Callable[..., str], flags: list[str]) -> None:
    assert sentence(train.main, *flags).startswith("Give a config, for example --config-file configs/")


def test_config_that_does_not_exist(sentence: Callable[..., str]) -> None:
    said = sentence(train.main, "--config-file", "no/such.yaml")
    assert said.startswith("Config file no/such.yaml does not exist; the most similar one is configs/")


def test_misspelt_key(sentence: Callable[..., str], tmp_path: Path) -> None:
    message = sentence(train.main, "--config-file", GTA, "SOLVER.BASE_LRR", "1")
    assert "SOLVER.BASE_LRR on the command line" in message
    assert "SOLVER.BASE_LR." in message
    config = tmp_path / "mine.yaml"
    config.write_text(f"_BASE_: {GTA}\nTEST: {{EVAL_PERIODS: 3}}\n")
    message = sentence(train.main, "--config-file", str(config))
    assert "TEST.EVAL_PERIODS" in message
    assert "mine.yaml" in message


def test_the_config_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that is ignored is reported once."""
    monkeypatch.setattr("clouds.engine.training.launch", lambda *_: None)
    config = tmp_path / "mine.yaml"
    config.write_text(f"_BASE_: {GTA}\nINPUT: {{RANDOM_FLIP: none}}\n")
    assert train.main(["--config-file", str(config)]) == 0
    assert [record.getMessage().count("INPUT.RANDOM_FLIP") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("SOLVER.MAX_ITER", "0"), ("INPUT.CROP_SIZE", "(0, 0)"), ("DATALOADER.NUM_WORKERS", "-2")),
        *(("SOLVER.BASE_LR", "{[]:1}"), ("SOLVER.BASE_LR", "-" * 20_000), ("SOLVER.WARMUP_FACTOR", "-3")),
    ],
)
def test_values_are_checked_first(sentence: Callable[..., str], tmp_path: Path, key: str, value: str) -> None:
    folder = tmp_path / "run"
    message = sentence(train.main, "--config-file", GTA, "OUTPUT_DIR", str(folder), key, value)
    assert message.startswith(f"{key} on the command line must be ")
    assert len(message) <= MESSAGE_LENGTH
    assert not folder.exists()


def test_a_file_that_refers_to_itself(sentence: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("DATASETS:\n  TRAIN: &a [*a]\n")
    assert (
        sentence(train.main, "--config-file", str(config)) == f"Config file {config}, line 2: a value refers to itself."
    )


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--num-gpus", "0", "must be a whole number from 1 to 1,024, not 0"),
        ("--num-gpus", str(10**30), f"must be a whole number from 1 to 1,024, not {10**30}"),
        ("--num-machines", "-2", "must be a whole number from 1 to 1,024, not -2"),
        ("--machine-rank", "-1", "must be a whole number from 0 to 1,024, not -1"),
        ("--machine-rank", "1", "must be below --num-machines, 1"),
        ("--num-gpus", "two", "invalid int value: 'two'"),
    ],
)
def test_flags_out_of_range(flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["--config-file", GTA, f"{flag}={value}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: argument {flag}: {message}; see ")


@pytest.mark.parametrize("flags", [[], ["--eval-only"]])
def test_weights_not_found(sentence: Callable[..., str], flags: list[str]) -> None:
    message = sentence(train.main, "--config-file", GTA, *flags, "MODEL.WEIGHTS", "no/such.pth")
    assert message == "Weights not found: there is no file 'no/such.pth' (MODEL.WEIGHTS)."


@pytest.mark.parametrize(("flags", "missing"), [([], "gta5/images"), (["--eval-only"], "mapillary_vistas")])
def test_missing_data_folder(
    sentence: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    flags: list[str],
    missing: str,
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    opts = ("OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu")
    message = sentence(train.main, "--config-file", GTA, *flags, *opts)
    assert f"there is no folder {tmp_path}/data/{missing}" in message
    assert "DETECTRON2_DATASETS" in message


def test_words_that_are_no_pairs(sentence: Callable[..., str]) -> None:
    assert "KEY VALUE" in sentence(train.main, "--config-file", GTA, "SOLVER.BASE_LR")
