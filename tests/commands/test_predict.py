"""The command ``clouds predict``: its flags, inputs and config keys."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from clouds.commands import predict

ROOT = Path(__file__).resolve().parents[2]
WINDOWS = ("TEST.WINDOW", "300", "TEST.STRIDE", "200", "TEST.AUG.ENABLED", "True")
GTA = str(ROOT / "configs/warmup/gta/train_gta.yaml")


def test_predict_into_a_file(sentence: Callable[..., str], tmp_path: Path) -> None:
    for name in ("a.png", "w.pth", "out"):
        (tmp_path / name).touch()
    flags = ("--config-file", GTA, str(tmp_path / "a.png"), "--output", str(tmp_path / "out"))
    assert sentence(predict.main, *flags) == (
        "A prediction needs a trained network: give --model, or --config-file with MODEL.WEIGHTS."
    )
    assert sentence(predict.main, *flags[2:]) == sentence(predict.main, *flags)
    assert sentence(predict.main, "--model", "output/gta", *flags, "MODEL.WEIGHTS", "w.pth") == (
        "--model and MODEL.WEIGHTS both name a network: leave out one of them."
    )
    message = sentence(predict.main, *flags, "MODEL.WEIGHTS", str(tmp_path / "w.pth"))
    assert message == (
        f"{tmp_path}/out cannot be written (another file has its name): move that file away, or give another name."
    )


def test_predict_without_an_image(sentence: Callable[..., str], tmp_path: Path) -> None:
    flags = ("--config-file", GTA, "--output", str(tmp_path / "out"))
    assert sentence(predict.main, *flags).startswith("No image to label in the command line: give images (.avif, ")
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
        ("--window 300 --augment a.png SEED 3 --output out", ["a.png"], [*("SEED", "3"), *WINDOWS]),
        ("IMG_1.PNG CLIP_2.MOV --output out SEED 3", ["IMG_1.PNG", "CLIP_2.MOV"], ["SEED", "3"]),
        ("IMG_1.PNG PHOTO.JPEG --output out SOLVER.STEPS (1,)", ["IMG_1.PNG", "PHOTO.JPEG"], ["SOLVER.STEPS", "(1,)"]),
    ],
)
def test_predict_tells_inputs_from_settings(words: str, inputs: list[str], opts: list[str]) -> None:
    args, found = predict.parse_arguments(["--config-file", "c.yaml", *words.split()])
    assert args.inputs == inputs
    assert found == opts
    assert str(args.output) == "out"


def test_a_folder_may_look_like_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DCIM").mkdir()
    args, opts = predict.parse_arguments(["--config-file", "c.yaml", "DCIM", "--output", "out", "SEED", "1"])
    assert (args.inputs, opts) == (["DCIM"], ["SEED", "1"])


def test_wrong_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ("--write labels,overlays", "argument --write: 'overlays' is no result: choose from labels, overlay,"),
        ("--every 0", "argument --every: must be a whole number from 1 to"),
    ):
        with pytest.raises(SystemExit):
            predict.parse_arguments(["a.png", "--output", "out", *words.split()])
        assert message in capsys.readouterr().err
    args, _ = predict.parse_arguments(["--write", "json,labels", "a.png", "--output", "out"])
    assert (args.write, args.inputs) == (("json", "labels"), ["a.png"])


class Piped:
    """Standard input with some bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Piped(b"b.png\r\n\n c d.png\n"))
    with predict._standard_input(["a.png", "-", "e.png"]) as words:
        assert words == ["a.png", "b.png", "c d.png", "e.png"]
    for content in (b"\x89PNG\r\n\x1a\n\0", b"\0\0\0 ftypisom"):
        monkeypatch.setattr("sys.stdin", Piped(content))
        with predict._standard_input(["-"]) as words:
            [file] = map(Path, words)
            assert file.read_bytes() == content
        assert not file.exists()
    with predict._standard_input(["a.png"]) as words:
        assert words == ["a.png"]
