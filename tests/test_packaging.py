"""The source archive and the wheel, built from a copy of this repository without a network, and what they install."""

import email.message
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import clouds
from clouds.data.classes import CITYSCAPES_COLORS, CITYSCAPES_ID_TO_TRAIN_ID
from tests.engine.test_end_to_end import CLIP

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
Done = subprocess.CompletedProcess[str]


def run(*command: str | Path, cwd: Path, **environment: str) -> Done:
    """Run a command in an environment in which nothing leads to this repository."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def build(kind: str, source: Path) -> Path:
    """Build "sdist" or "wheel" in `source` and return its path."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    done = run(sys.executable, "-c", code, cwd=source)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    (built,) = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("repository")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "weights")
    for folder in ("clouds", "configs", "projects", "tests/commands", "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=left_out)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return build("sdist", copy)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel from the source archive, so that the archive is complete."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder := tmp_path_factory.mktemp("sdist"), filter="data")
    return build("wheel", folder / sdist.name.removesuffix(".tar.gz"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_framework_its_configs_and_prompts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        for name in ("configs/warmup/gta/train_gta.yaml", "prompt_llama70b.txt"):
            assert archive.read(f"clouds/{name}") == (ROOT / name).read_bytes()
    files = [path for path in (ROOT / "clouds").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += [path for path in (ROOT / "configs").rglob("*") if path.is_file()]
    found = {path.relative_to(ROOT).as_posix().removeprefix("clouds/") for path in files}
    assert names == {f"clouds/{name}" for name in found | {"prompt_llama70b.txt"}}
    assert "clouds/py.typed" in names


def test_the_metadata(metadata: email.message.Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("clouds-dgss", clouds.__version__)
    python = "Programming Language :: Python :: "
    versions = {each.removeprefix(python) for each in metadata.get_all("Classifier", []) if each.startswith(python)}
    assert versions == {"3 :: Only", "3.11", "3.12", "3.13"}
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert set(metadata.get_all("Provides-Extra", [])) == {"export", "wandb", "docs", "web", "web-test", "dev"}
    assert 'clouds-dgss[docs,export]; extra == "dev"' in metadata.get_all("Requires-Dist", [])


def test_the_wheel_requires_what_requirements_txt_lists(metadata: email.message.Message) -> None:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    listed = {line.replace(" ", "") for line in lines if line}
    required = {line.replace(" ", "") for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert {normalized(line) for line in required} == {normalized(line) for line in listed}


def normalized(requirement: str) -> tuple[str, frozenset[str]]:
    """The name of a package and its bounds, whose order does not matter."""
    end = next(at for at, letter in enumerate(requirement) if letter in "<>=")
    return requirement[:end].lower().replace("_", "-"), frozenset(requirement[end:].split(","))


class Installed(NamedTuple):
    """The installed wheel, and a folder that has nothing to do with it. Dependencies are those of the tests."""

    site: Path
    folder: Path

    def run(self, *command: str | Path) -> Done:
        settings = {"PYTHONPATH": str(self.site), "DETECTRON2_DATASETS": "data", "OMP_NUM_THREADS": "1"}
        return run(*command, cwd=self.folder, **settings)

    def clouds(self, *words: str | Path) -> Done:
        return self.run(self.site / "bin/clouds", *words)

    def python(self, code: str, *words: str | Path) -> Done:
        done = self.run(sys.executable, "-c", code, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    found = Installed(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere"))
    pip = ("pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps", "--target")
    done = run(sys.executable, "-m", *pip, found.site, wheel, cwd=found.folder)
    assert done.returncode == 0, done.stderr
    where = found.python("import clouds; print(clouds.__file__)").stdout.strip()
    assert Path(where) == found.site / "clouds/__init__.py", "or the tests would run the repository's code"
    return found


@pytest.mark.slow
def test_names_of_the_repository(installed: Installed) -> None:
    assert installed.clouds("--version").stdout == f"clouds {clouds.__version__}\n"
    done = installed.clouds("train", "--config-file", "configs/warmup/gta/train_gta50.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: Config file configs/warmup/gta/train_gta50.yaml does not exist; the most similar one is "
        "configs/warmup/gta/train_gta_r50.yaml.\n"
    )
    done = installed.python(
        "from clouds.generation.prompts import find_prompts; print(find_prompts('prompt_llama70b'))"
    )
    assert done.stdout == f"{installed.site / 'clouds/prompt_llama70b.txt'}\n"


SMALL = """
_BASE_: configs/joint_training/gta/train_jt_gta.yaml
SEED: 5
MODEL:
  DEVICE: cpu
  WEIGHTS: ""
  CLOUDS: {CLIP_MODEL_NAME: clip.json, CLIP_PRETRAINED_WEIGHTS: "", EMBED_DIM: 16, SAM: {MINIBATCH: False}}
  SEM_SEG_HEAD: {CONVS_DIM: 32, MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1, TRANSFORMER_ENC_DIM_FEEDFORWARD: 32,
    DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: 4}
  MASK_FORMER: {HIDDEN_DIM: 32, NUM_OBJECT_QUERIES: 8, NHEADS: 4, DIM_FEEDFORWARD: 32, DEC_LAYERS: 3}
INPUT: {INITIAL_HEIGHT: 32, INITIAL_WIDTH: 48, CROP_SIZE: [32, 32], TEST_SHORT_EDGE: 32}
DATALOADER: {NUM_WORKERS: 0, SAMPLER_TRAIN: TrainingSampler}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 20, BASE_LR: 0.01}
OUTPUT_DIR: output
"""


def write_streets(folder: Path) -> None:
    """Write the data set of ``configs/datasets/streets.yaml``: sky above a road, and a row with all classes."""
    label_ids = sorted(CITYSCAPES_ID_TO_TRAIN_ID, key=CITYSCAPES_ID_TO_TRAIN_ID.__getitem__)
    for split in ("train", "val"):
        for number in range(2):
            train_ids = np.repeat([10, 0], (20 - number, 12 + number))[:, None].repeat(48, 1)
            train_ids[-1] = np.arange(48) % 19
            for name, pixels in (
                (f"images/{number}.jpg", np.array(CITYSCAPES_COLORS, np.uint8)[train_ids]),
                (f"labels/{number}_labelIds.png", np.array(label_ids, np.uint8)[train_ids]),
            ):
                path = folder / "streets" / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


# Commands and snippets in one process, so that torch is imported once.
EVERYTHING = """
import json, sys
import numpy as np
import onnxruntime
from PIL import Image
import clouds
from clouds.commands.main import main

image, *commands = json.loads(sys.argv[1])
for words in commands:
    code = main(words)
    assert code == 0, (code, words)
labels = np.asarray(Image.open("out/0_labels.png"))
trained = clouds.load("output")
assert (trained.predict(image).labels == labels).all(), "a run"
trained.save_pretrained("saved")
assert (clouds.load("saved").predict(image).labels == labels).all(), "a saved network"
pixels = np.asarray(Image.open(image).convert("RGB"))
session = onnxruntime.InferenceSession("small.onnx")
[[exported]] = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
assert (exported == labels).mean() >= 0.999, "an exported network"
"""


@pytest.mark.slow
def test_from_data_to_a_saved_network_in_another_folder(installed: Installed) -> None:
    folder = installed.folder
    write_streets(folder / "data")
    (folder / "clip.json").write_text(json.dumps(CLIP))
    (folder / "small.yaml").write_text(SMALL)
    dataset = ("--dataset", "configs/datasets/streets.yaml")
    config, weights = ("--config-file", "small.yaml", *dataset), ("MODEL.WEIGHTS", "output/model_final.pth")
    image = "data/streets/val/images/0.jpg"
    commands = (
        image,
        ("prepare", *dataset, "--nproc", "1"),
        ("train", *config),
        ("eval", *config, *weights, "OUTPUT_DIR", "evaluation"),
        ("predict", *config, image, "--output", "out", *weights),
        ("report", "output", "evaluation"),
        ("export", "output", "small.onnx", "--labels"),
    )
    done = installed.python(EVERYTHING, json.dumps(commands))
    header, _, trained, evaluated = (line for line in done.stdout.splitlines() if line.startswith("| "))
    assert header == "| mIoU in % | trained on | seed | protocol | streets_val |"
    assert trained.removeprefix("| output") == evaluated.removeprefix("| evaluation")
    labels = np.asarray(Image.open(folder / "out/0_labels.png"))
    assert labels.shape == (32, 48)
    assert len(np.unique(labels)) > 1, "or equal labels would mean little"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("clip.json", "data", "evaluation", "out", "output", "saved", "small.onnx", "small.yaml")
    ]
