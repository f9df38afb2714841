"""tools/predict.py: its inputs, its config keys and the names of its results."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clouds.commands import predict

ROOT = Path(__file__).resolve().parents[2]
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
    for name in (
        "b/2.jpg",
        "b/1.PNG",
        "a.webp",
        "scan.TIF",
        "iphone.heic",
        "same.jpg",
        "same.png",
        "read.me",
        "b/out/1_overlay.jpg",
    ):
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
        ("iphone.heic", "iphone"),
        ("same.jpg", "same.jpg"),
        ("same.png", "same.png"),
        ("scan.TIF", "scan"),
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
