"""The command lines: what a user types wrong is one sentence and exit code 2, told before anything heavy is loaded."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
GTA = str(ROOT / "configs/warmup/gta/train_gta.yaml")


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train_net, predict = script("train_net.py"), script("tools/predict.py")


@pytest.fixture
def sentence(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a main that must fail; its one line on stderr."""

    def run(main: Callable[[list[str]], int], *argv: str) -> str:
        assert main(list(argv)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return run


@pytest.mark.parametrize("flags", [[], ["--eval-only"], ["--resume"]])
def test_no_config(sentence: Callable[..., str], flags: list[str]) -> None:
    assert sentence(train_net.main, *flags).startswith("Give a config, for example --config-file configs/")


def test_config_that_does_not_exist(sentence: Callable[..., str]) -> None:
    assert sentence(train_net.main, "--config-file", "no/such.yaml") == "Config file no/such.yaml does not exist."


def test_misspelt_key(sentence: Callable[..., str], tmp_path: Path) -> None:
    message = sentence(train_net.main, "--config-file", GTA, "SOLVER.BASE_LRR", "1")
    assert "SOLVER.BASE_LRR on the command line" in message
    assert "SOLVER.BASE_LR." in message
    config = tmp_path / "mine.yaml"
    config.write_text(f"_BASE_: {GTA}\nTEST: {{EVAL_PERIODS: 3}}\n")
    message = sentence(train_net.main, "--config-file", str(config))
    assert "TEST.EVAL_PERIODS" in message
    assert "mine.yaml" in message


@pytest.mark.parametrize("flags", [[], ["--eval-only"]])
def test_weights_not_found(sentence: Callable[..., str], flags: list[str]) -> None:
    message = sentence(train_net.main, "--config-file", GTA, *flags, "MODEL.WEIGHTS", "no/such.pth")
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
    message = sentence(train_net.main, "--config-file", GTA, *flags, *opts)
    assert f"there is no folder {tmp_path}/data/{missing}" in message
    assert "DETECTRON2_DATASETS" in message


def test_words_that_are_no_pairs(sentence: Callable[..., str]) -> None:
    assert "KEY VALUE" in sentence(train_net.main, "--config-file", GTA, "SOLVER.BASE_LR")


def test_predict_into_a_file(sentence: Callable[..., str], tmp_path: Path) -> None:
    for name in ("a.png", "out"):
        (tmp_path / name).touch()
    message = sentence(predict.main, "--config-file", GTA, str(tmp_path / "a.png"), "--output", str(tmp_path / "out"))
    assert message == f"Cannot create the folder {tmp_path}/out (--output): File exists."


def test_predict_without_an_image(sentence: Callable[..., str], tmp_path: Path) -> None:
    flags = ("--config-file", GTA, "--output", str(tmp_path / "out"))
    assert sentence(predict.main, *flags).startswith("No image to label in the command line: give files or folders")
    assert sentence(predict.main, *flags, "no.png") == "Input not found: there is no file or folder 'no.png'."
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    assert f"No image to label in {tmp_path}/empty" in sentence(predict.main, *flags, str(tmp_path / "empty"))
    assert "Weights not found" in sentence(predict.main, *flags, "no.png", "MODEL.WEIGHTS", "no/such.pth")
    assert "SOLVER.BASE_LRR" in sentence(predict.main, *flags, "no.png", "SOLVER.BASE_LRR", "1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "inputs", "opts"),
    [
        ("a.png b --output out MODEL.WEIGHTS w.pth SEED -1", ["a.png", "b"], ["MODEL.WEIGHTS", "w.pth", "SEED", "-1"]),
        ("--output out a.png", ["a.png"], []),
        ("a.png SEED 3 --output out", ["a.png"], ["SEED", "3"]),
        ("IMG_1.PNG PHOTO.JPEG --output out SOLVER.STEPS (1,)", ["IMG_1.PNG", "PHOTO.JPEG"], ["SOLVER.STEPS", "(1,)"]),
    ],
)
def test_predict_tells_inputs_from_settings(words: str, inputs: list[str], opts: list[str]) -> None:
    args, found = predict.parse_arguments(["--config-file", "c.yaml", *words.split()])
    assert [str(path) for path in args.inputs] == inputs
    assert found == opts
    assert str(args.output) == "out"


def test_a_folder_may_look_like_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DCIM").mkdir()
    args, opts = predict.parse_arguments(["--config-file", "c.yaml", "DCIM", "--output", "out", "SEED", "1"])
    assert (args.inputs, opts) == ([Path("DCIM")], ["SEED", "1"])


def test_predict_plans_its_files(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.PNG", "a.webp", "same.jpg", "same.png", "read.me", "b/out/1_overlay.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    output = tmp_path / "in" / "b" / "out"
    jobs = predict.plan([tmp_path / "in"], output)
    named = {
        str(source.relative_to(tmp_path / "in")): str(target.relative_to(output)) for source, target in jobs.items()
    }
    assert list(named.items()) == [
        ("a.webp", "a"),
        ("b/1.PNG", "b/1"),
        ("b/2.jpg", "b/2"),
        ("same.jpg", "same.jpg"),
        ("same.png", "same.png"),
    ]
    single = predict.plan([tmp_path / "in" / "b" / "2.jpg"], output)
    assert list(single.values()) == [output / "2"]


def test_predict_refuses_to_write_one_file_twice(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").touch()
    with pytest.raises(ValueError, match="Two inputs are called 1"):
        predict.plan([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    assert len(predict.plan([tmp_path / "x", tmp_path / "x"], tmp_path / "out")) == 1


def test_help_and_errors_need_no_torch() -> None:
    """One process for both commands; torch and its like cannot be imported in it."""
    code = f"""
import os, runpy, sys
for name in ("torch", "torchvision", "open_clip", "cv2", "numpy"):
    sys.modules[name] = None
def run(script, *argv):
    sys.argv = [script, *argv]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        return stop.code
os.environ["CLOUDS_D2"] = "detectron3"
assert run("train_net.py", "--help") == 2
assert run("tools/predict.py", "--config-file", {GTA!r}, "no.png", "--output", "x") == 2
os.environ["CLOUDS_D2"] = "bundled"
assert run("train_net.py", "--help") == 0
assert run("train_net.py", "--no-such-flag") == 2
assert run("train_net.py", "--config-file", {GTA!r}, "SOLVER.BASE_LRR", "1") == 2
assert run("tools/predict.py", "--help") == 0
assert run("tools/predict.py", "--config-file", {GTA!r}, "no.png", "--output", "x") == 2
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: CLOUDS_D2=detectron3 in the environment is not known") == 2
    assert "--eval-only" in done.stdout
    assert "Train or evaluate a CLOUDS network." in done.stdout
    assert "INPUT is an image or a folder" in done.stdout
