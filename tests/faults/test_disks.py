"""Disks that run full, become read-only, or lose a folder while a command writes.

Each command ends in one sentence with exit code 2, what was complete stays as it is, no temporary file is left, and the
command, given again when there is room, ends with the files of an undisturbed one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clouds.commands import convert_datasets, generate, make_submission, predict, prepare_datasets, train
from clouds.utils.atomic import write_atomically
from clouds.utils.signals import stop_requested
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import write_config
from tests.evaluation.test_submission import save_network, write_cityscapes
from tests.faults.processes import Outcome, Processes
from tests.generation.pipelines import write_stable_diffusion
from tests.self_training.test_sam_cache import cached, image

pytestmark = pytest.mark.slow

BALLAST = "ballast"


def prepare(argv: list[str]) -> int:
    """Prepare data sets; the exit code 1 of a set that has fewer images than the real one becomes 0."""
    code = prepare_datasets.main(argv)
    return 0 if code == 1 else code


MAINS: dict[str, Callable[..., int]] = {
    "predict": predict.main,
    "evaluate": train.main,
    "submit": make_submission.main,
    "convert": lambda argv: convert_datasets.main("cityscapes", argv),
    "prepare": prepare,
    "train": train.main,
    "generate": generate.main,
}


def fill(folder: Path) -> None:
    """Fill the file system of a folder."""
    with contextlib.suppress(OSError), (folder / BALLAST).open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def strike(fault: str, disk: Path) -> None:
    """Fill a disk, make it "read-only", have its folder "removed", or send this process the signal of a name."""
    if fault == "full":
        fill(disk)
    elif fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    elif fault == "removed":
        shutil.rmtree(disk / "out")
    else:
        os.kill(os.getpid(), signal.Signals[fault])
        end = time.monotonic() + 60
        while stop_requested() is None and time.monotonic() < end:  # a thread reads it
            time.sleep(0.001)


def struck(argv: list[str]) -> int:
    """Run a command in a child process; a fault strikes before a certain file gets its name for the `count`-th time."""
    name, fault, disk, pattern, count, *words = argv
    left = int(count)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "os.rename" and pattern in str(args[1]) and left > 0:
            left -= 1
            if left == 0:
                strike(fault, Path(disk))

    sys.addaudithook(watch)
    code = MAINS[name](words)
    assert left == 0, "the fault has not struck"
    return code


class Case:
    """A command, and the place of its files.

    Attributes:
        name: key of `MAINS`.
        words: its command line.
        again: further words that let it go on.
        environment: environment variables.
        pattern: part of the names of files that it writes one after the other.
        results: suffixes of the files that it leaves, to be compared.
    """

    def __init__(
        self,
        name: str,
        words: list[Any],
        pattern: str,
        *,
        results: tuple[str, ...] = (".png", ".jpg"),
        again: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name, self.words, self.pattern, self.results = name, list(map(str, words)), pattern, results
        self.again = [again] if again else []
        self.environment = environment or {}


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of all commands: images, a network without training, a config of a small CLOUDS, a diffusion model."""
    folder = tmp_path_factory.mktemp("material")
    write_cityscapes(folder / "data", "val", labels=True)
    save_network(folder / "network.pth")
    settings = {
        "MODEL": {
            "META_ARCHITECTURE": "NearestColor", "DEVICE": "cpu", "WEIGHTS": str(folder / "network.pth"),
            "CLOUDS": {"CLIP_PRETRAINED_WEIGHTS": "somewhere"},
        },
        "INPUT": {"TEST_SHORT_EDGE": 32}, "DATASETS": {"TEST": ["cityscapes_val"]}, "DATALOADER": {"NUM_WORKERS": 0},
    }  # fmt: skip
    (folder / "network.yaml").write_text(yaml.safe_dump(settings))
    for split, count in (("train", 6), ("val", 3)):
        write_images(folder / "tiny" / split, count)
    write_config(folder / "train.yaml")
    write_stable_diffusion(folder / "sd")
    (folder / "prompts.txt").write_text("a busy street\nbus in rain\nsnow and fog\n")
    return folder


def case(name: str, material: Path, disk: Path) -> Case:
    """A command that writes to the folder `out` of a disk."""
    out, data = disk / "out", {"DETECTRON2_DATASETS": str(material / "data")}
    network = ["--config-file", material / "network.yaml"]
    if name == "predict":
        images = material / "data/cityscapes/leftImg8bit/val"
        return Case(name, [*network, images, "--output", out], "_labels.png", environment=data)
    if name == "evaluate":
        keys = ["MODEL.SAVE_PSEUDO_LABELS", "True", "OUTPUT_DIR", out]
        return Case(name, [*network, "--eval-only", *keys], "_labelTrainIds.png", environment=data)
    if name == "submit":
        words = [*network, "--benchmark", "cityscapes", "--split", "val", "--output", out]
        return Case(name, words, "_labelIds.png", results=(".png", ".zip"), environment=data)
    if name == "convert":
        shutil.copytree(material / "data/cityscapes", out, ignore=shutil.ignore_patterns("*_labelTrainIds.png"))
        return Case(name, [out, "--nproc", 1], "_labelTrainIds.png", results=(".png", ".json", ".txt"))
    if name == "prepare":
        shutil.copytree(material / "data", out, ignore=shutil.ignore_patterns("*_labelTrainIds.png"))
        words = ["cityscapes_val", "--nproc", 1]
        return Case(name, words, "_labelTrainIds.png", environment={"DETECTRON2_DATASETS": str(out)})
    if name == "generate":
        words = ["--folder", "set", "--input", material / "prompts.txt", "--model", material / "sd", "--steps", 2]
        words += ["--batch-size", 1, "--num-images", 4, "--output-root", out]
        return Case(name, words, ".png", results=(".png", "manifest.jsonl"))
    keys = ["SOLVER.CHECKPOINT_PERIOD", 10, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", out]
    environment = {"DETECTRON2_DATASETS": str(material / "tiny"), "PYTHONPATH": str(material)}
    words = ["--config-file", material / "train.yaml", *keys]
    return Case(name, words, "last_checkpoint", results=(), again="--resume", environment=environment)


def files(folder: Path, endings: tuple[str, ...]) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name.endswith(endings)
    }


def check_sentence(outcome: Outcome, disk: Path, said: str) -> None:
    assert outcome.code == 2, outcome.output
    assert "Traceback" not in outcome.output
    assert "Exception ignored" not in outcome.output
    (line,) = [line for line in outcome.output.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {disk}"), line
    assert f" cannot be written ({said}): " in line
    assert outcome.orphans == []


@pytest.fixture
def straight(processes: Processes, material: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Function that runs a command undisturbed and returns the folder of its files."""

    def run(name: str) -> Path:
        one = case(name, material, tmp_path)
        outcome = processes.run(
            struck, [name, "", tmp_path, "no such file", 0, *one.words], environment=one.environment
        )
        assert outcome.code == 0, outcome.output
        return tmp_path / "out"

    return run


@pytest.mark.parametrize(
    ("name", "count"),
    [("predict", 2), ("evaluate", 2), ("submit", 2), ("convert", 2), ("generate", 2), ("train", 1)],
)
def test_a_full_disk(
    name: str,
    count: int,
    processes: Processes,
    tmpfs: Callable[[str], Path],
    material: Path,
    straight: Callable[[str], Path],
) -> None:
    disk = tmpfs("20m")
    one = case(name, material, disk)
    words = [name, "full", disk, one.pattern, count, *one.words]
    check_sentence(processes.run(struck, words, environment=one.environment), disk, "its disk is full")
    assert not list(disk.rglob("*.part"))
    kept = files(disk / "out", one.results) if one.results else {}
    checkpoint = (disk / "out/model_0000009.pth").read_bytes() if name == "train" else b""
    (disk / BALLAST).unlink()
    words = [name, "", disk, "no such file", 0, *one.again, *one.words]
    outcome = processes.run(struck, words, environment=one.environment)
    assert outcome.code == 0, outcome.output
    expected = straight(name)
    if name == "train":
        assert "Resumed at iteration 10" in outcome.output
        assert (disk / "out/model_0000009.pth").read_bytes() == checkpoint
        ours, theirs = (torch.load(folder / "model_final.pth")["model"] for folder in (disk / "out", expected))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    else:
        found = files(disk / "out", one.results)
        assert kept.items() <= found.items()
        assert found == files(expected, one.results)
        assert len(kept) < len(found)


@pytest.mark.parametrize("name", ["predict", "evaluate", "submit", "convert", "generate", "train"])
def test_a_folder_that_is_removed(
    name: str, processes: Processes, tmpfs: Callable[[str], Path], material: Path
) -> None:
    disk = tmpfs("20m")
    one = case(name, material, disk)
    words = [name, "removed", disk, one.pattern, 1, *one.words]
    check_sentence(processes.run(struck, words, environment=one.environment), disk, "its folder has been removed")
    assert not list(disk.iterdir()), "nothing makes the folder anew"


@pytest.mark.parametrize("name", ["predict", "convert", "submit"])
def test_a_disk_that_becomes_read_only(
    name: str, processes: Processes, tmpfs: Callable[[str], Path], material: Path
) -> None:
    disk = tmpfs("20m")
    one = case(name, material, disk)
    words = [name, "read-only", disk, one.pattern, 2, *one.words]
    check_sentence(processes.run(struck, words, environment=one.environment), disk, "its disk is read-only")
    kept = files(disk / "out", one.results)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    for stray in disk.rglob("*.part"):  # it could not be removed; the command does it when the file is old enough
        os.utime(stray, (0, 0))
    words = [name, "", disk, "no such file", 0, *one.words]
    outcome = processes.run(struck, words, environment=one.environment)
    assert outcome.code == 0, outcome.output
    assert kept.items() <= files(disk / "out", one.results).items()
    assert not list(disk.rglob("*.part"))


@pytest.mark.parametrize("name", ["evaluate", "generate", "train"])
def test_a_disk_that_is_read_only(
    name: str, processes: Processes, tmpfs: Callable[[str], Path], material: Path
) -> None:
    disk = tmpfs("2m")
    one = case(name, material, disk)
    (disk / "out").mkdir()
    strike("read-only", disk)
    words = [name, "", disk, "no such file", 0, *one.words]
    check_sentence(processes.run(struck, words, environment=one.environment), disk, "its disk is read-only")


def test_a_full_disk_costs_the_cache_and_no_embedding(
    tmpfs: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmpfs("2m")
    sam = cached(disk / "cache")
    fill(disk)
    for _ in range(2):
        assert [each.size for each in sam.encode([image(1), image(2)])] == [(6, 10), (6, 10)]
    assert sam.sam.batches == [2, 2]
    [warning] = caplog.messages
    assert warning.endswith("cannot be written and is left out (No space left on device)")
    assert not list((disk / "cache").iterdir())
    (disk / BALLAST).unlink()
    sam.encode([image(1)])
    assert len(list((disk / "cache").iterdir())) == 1


def test_a_full_disk_fills(tmpfs: Callable[[str], Path]) -> None:
    disk = tmpfs("2m")
    fill(disk)
    assert os.statvfs(disk).f_bavail == 0
    with pytest.raises(OSError, match="its disk is full"):
        write_atomically(disk / "file", "text")
    assert [path.name for path in disk.iterdir()] == [BALLAST]
