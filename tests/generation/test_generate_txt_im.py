"""Command with tiny pipelines. `tests.faults.test_generation` has several processes and signals."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.commands import generate as command
from clouds.generation.records import read_manifest, read_rejected
from tests.marks import slow


@pytest.fixture
def flags(tmp_path: Path, stable_diffusion: Path) -> Callable[..., list[str]]:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a busy street\nbus in rain\nsnow and fog\n")

    def make(folder: str, *more: str, model: Path = stable_diffusion) -> list[str]:
        fixed = ["--input", str(prompts), "--model", str(model), "--steps", "2", "--output-root", str(tmp_path)]
        return ["--folder", folder, *fixed, *more]

    return make


def images(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))}


def apart(one: Path, other: Path) -> int:
    """Return the largest difference between the images of two sets, in grey levels."""
    ours, theirs = images(one), images(other)
    assert ours.keys() == theirs.keys()
    return max(int(np.abs(ours[name].astype(int) - theirs[name]).max()) for name in ours)


def rows(folder: Path) -> list[dict[str, object]]:
    return read_manifest(folder / "manifest.jsonl")


@pytest.mark.parametrize("model", ["stable_diffusion", *slow("sdxl")])
def test_batches_parts_and_manifest(
    flags: Callable[..., list[str]], tmp_path: Path, model: str, request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sets = tmp_path / "stable_diffusion"
    pipeline = request.getfixturevalue(model)
    make = lambda folder, *more: flags(folder, *more, model=pipeline)  # noqa: E731
    assert command.main(make("four", "--num-images", "6")) == 0
    assert "6 images painted in" in capsys.readouterr().out
    assert command.main(make("one", "--num-images", "6", "--batch-size", "1")) == 0
    assert apart(sets / "four", sets / "one") <= 1
    for part in ("0", "2", "1"):
        assert command.main(make("parts", "--num-images", "2", "--part", part, "--batch-size", "2")) == 0
    assert apart(sets / "four", sets / "parts") <= 1
    assert [row["seed"] for row in rows(sets / "parts")] == [row["seed"] for row in rows(sets / "four")]
    # A different seed gives different images.
    assert command.main(make("other", "--num-images", "6", "--seed", "1")) == 0
    assert apart(sets / "four", sets / "other") > 20
    capsys.readouterr()
    again = ["--from-manifest", str(sets / "four"), "--folder", "again", "--output-root", str(tmp_path)]
    assert command.main(again) == 0
    assert "6 of 6 images are bit for bit those of the manifest" in capsys.readouterr().out
    assert (sets / "again" / "manifest.jsonl").read_bytes() == (sets / "four" / "manifest.jsonl").read_bytes()
    assert command.main([*again[:3], "some", *again[4:], "--images", "1,4-5"]) == 0
    assert [row["sha256"] for row in rows(sets / "some")] == [rows(sets / "four")[at]["sha256"] for at in (1, 4, 5)]


def test_gate_and_statistics(
    flags: Callable[..., list[str]], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = tmp_path / "stable_diffusion"
    with_clip = ["--num-images", "4", "--attempts", "1", "--clip", str(clip), "--clip-weights", "", "--min-similarity"]
    assert command.main(flags("all", *with_clip, "-1")) == 0
    similarities = [row["similarity"] for row in rows(sets / "all")]
    assert len(set(similarities)) == 4
    least = sum(sorted(similarities)[1:3]) / 2
    assert command.main(flags("gated", *with_clip, str(least))) == 0
    kept, rejected = rows(sets / "gated"), read_rejected(sets / "gated" / "rejected.jsonl")
    assert [row["index"] for row in kept] == [index for index, value in enumerate(similarities) if value > least]
    assert [row["index"] for row in rejected] == [index for index, value in enumerate(similarities) if value < least]
    assert all(row["reason"].startswith("similarity to its prompt") for row in rejected)
    settings = json.loads((sets / "gated" / "dataset.json").read_text())["settings"]
    assert settings["gate"]["similarity"] == least
    capsys.readouterr()
    assert command.main(["--folder", "gated", "--output-root", str(tmp_path), "--stats"]) == 0
    assert "2 images" in capsys.readouterr().out
    assert (sets / "gated" / "contact_sheet.jpg").is_file()


def test_gate_that_nothing_passes(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    assert command.main(flags("bare", "--num-images", "2", "--gate", "--min-contrast", "127", "--attempts", "2")) == 1
    bare = tmp_path / "stable_diffusion" / "bare"
    assert rows(bare) == []
    assert [row["attempt"] for row in read_rejected(bare / "rejected.jsonl")] == [0, 1, 0, 1]


def test_disk_full(flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small tmpfs")
    try:
        assert command.main(flags("set", "--num-images", "40", "--output-root", str(small))) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"error: {small}")
        assert "cannot be written (its disk is full): make room, then give the same command again" in said
        for path in (small / "stable_diffusion/set/images").iterdir():
            Image.open(path).load()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--input", "no/such"], "There is no prompt file no/such.txt"),
        (["--model", "no/such"], "The text-to-image model 'no/such' cannot be loaded"),
        (["--device", "cuda:9"], "--device cuda:9 asks for GPU 9"),
        (["--folder", "a/b"], "--folder 'a/b' must be a plain name"),
        (["--folder", ""], "--folder '' must be a plain name"),
        (["--images", "3"], "--images goes with --from-manifest"),
        (["--from-manifest", "no/such"], "There is no manifest no/such"),
        (["--dtype", "fp64"], "--dtype names 'fp64'"),
        (
            ["--output-root", "/dev/null"],
            "/dev/null/stable_diffusion/set/images cannot be written (a file is",
        ),
        (["--stats"], "There is no readable image"),
    ],
)
def test_mistakes(
    flags: Callable[..., list[str]], sentence: Callable[..., str], more: list[str], says: str
) -> None:  # fmt: skip
    assert sentence(command.main, *flags("set"), *more).startswith(says)


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--num-images", "0", "must be a whole number from 1 to 1,000,000,000, not '0'"),
        ("--batch-size", "four", "must be a whole number from 1 to 1,000,000,000, not 'four'"),
        ("--part", "-1", "must be a whole number from 0 to 1,000,000,000, not '-1'"),
        ("--guidance", "nan", "must be a number from 0 to 1,000,000,000, not 'nan'"),
        ("--num-images", str(10**30), f"must be a whole number from 1 to 1,000,000,000, not '{10**30}'"),
        ("--seed", "-1", "must be a whole number from 0 to 9,223,372,036,854,775,807, not '-1'"),
        ("--height", "-8", "must be a whole number from 1 to 16,384, not '-8'"),
        ("--min-similarity", "nan", "must be a number from -1 to 1, not 'nan'"),
        ("--min-contrast", "-1", "must be a number from 0 to 255, not '-1'"),
        ("--duplicate-distance", "65", "must be a whole number from -1 to 64, not '65'"),
    ],
)
def test_numbers_out_of_range(flag: str, value: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--folder", "set", f"{flag}={value}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: argument {flag}: {says}; see ")
