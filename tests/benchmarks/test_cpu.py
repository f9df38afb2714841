"""The benchmarks that compare with a peer on a CPU: each in miniature, with its check that both results agree."""

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

RUNS = {
    "pseudo_labels": (["--repeats", "1"], 4),
    "generation": (["--images", "2", "--batch-size", "2", "--steps", "1", "--rounds", "1", "--no-compile"], 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_ratios_are_printed(
    module: Callable[[str], ModuleType], name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    flags, rows = RUNS[name]
    script = module(name)
    if hasattr(script, "get_context"):  # a forked process imports nothing again
        monkeypatch.setattr(script, "get_context", lambda _: multiprocessing.get_context("fork"))
    assert script.main(flags) == 0
    ratios = re.findall(r"(\d+\.\d+)x$", capsys.readouterr().out, re.MULTILINE)
    assert len(ratios) == rows
    assert all(float(ratio) > 0 for ratio in ratios)


def test_sam_says_where_its_weights_come_from(
    module: Callable[[str], ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert module("sam").main([]) == 2
    assert "clouds weights mobile_sam" in capsys.readouterr().err


def test_scenes(module: Callable[[str], ModuleType]) -> None:
    scenes = module("scenes")
    labels = scenes.label_map((60, 90), 1)
    assert labels.shape == (60, 90)
    assert labels.dtype == np.uint8
    assert labels.max() < scenes.CLASSES
    assert (labels == scenes.label_map((60, 90), 1)).all()
    assert (labels != scenes.label_map((60, 90), 2)).any()
    assert len(np.unique(labels)) > 10
    assert (scenes.label_map((60, 90), 1, specks=0.1) == scenes.IGNORE).any()
    image = scenes.image(labels, 1)
    assert image.shape == (60, 90, 3)
    assert image.dtype == np.uint8
    spread = [image[labels == label].std(axis=0).mean() for label in np.unique(labels)]
    assert max(spread) < image.std(axis=(0, 1)).mean()  # a class has a color of its own


@pytest.mark.parametrize("name", ["bench", "fuzz", "generation", "gpu", "pseudo_labels", "sam"])
def test_a_wrong_flag_is_one_line(
    module: Callable[[str], ModuleType], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"fuzz": ["--inputs", "0"], "gpu": ["--seconds", "nan"], "pseudo_labels": ["--repeats", "-1"]}
    flags |= {"bench": ["--threads", "0"]}
    with pytest.raises(SystemExit) as stop:
        module(name).main(flags.get(name, ["--images", "0"]))
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: argument {flags.get(name, ['--images'])[0]}: must be a ")
