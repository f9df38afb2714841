"""Small jobs of each long command, the commands that continue them, and their results, to be compared bit by bit."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clouds.commands import convert_datasets, generate, predict, train
from clouds.engine import training
from tests.data.official import blocks, palette_png
from tests.engine.conftest import write_images
from tests.engine.joint import JOINT, JOINT_MODULE, JointTrainer, write_joint_images
from tests.engine.test_end_to_end import write_config
from tests.faults.processes import ROOT, Main
from tests.generation.pipelines import write_stable_diffusion

Result = dict[str, Any]

# Files that tell of the machine, the time, or the number of starts, and those that a killed process has not completed.
_OF_ITS_OWN = ("log.txt*", "events.out.tfevents.*", "run.json", "config_*.yaml", "git*.diff", "*.lock", "*.part")
_SET_ASIDE = "previous"  # folder of a run that was killed before it was on record
_TRAINING = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 3)


@dataclass(frozen=True)
class Job:
    """Command whose interruption loses nothing.

    Attributes:
        main: main function of the command.
        script: its script.
        argv: arguments that make the command write its results to a folder.
        resume: further arguments, before the others, that continue the command.
        script_argv: further arguments, after the others, of the script.
        inputs: folder that is copied to the folder of the results first; None for no such folder.
    """

    main: Main
    script: Path
    argv: Callable[[Path], list[str]]
    resume: tuple[str, ...] = ()
    script_argv: tuple[str, ...] = ()
    inputs: Path | None = None

    def prepare(self, folder: Path) -> None:
        """Make the folder of the results."""
        if self.inputs:
            shutil.copytree(self.inputs, folder)
        else:
            folder.mkdir(parents=True)

    def result(self, folder: Path) -> Result:
        """Return all that must be equal in an interrupted and in an undisturbed run, by name."""
        found = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and name.parts[0] != _SET_ASIDE and not any(map(name.match, _OF_ITS_OWN)):
                found[name.as_posix()] = _content(path, folder)
        return found


def train_jointly(argv: list[str] | None = None) -> int:
    """Main function of ``train_net.py`` with `JointTrainer`, in a process of its own."""
    train.run = lambda cfg, args: training.start(cfg, args, JointTrainer)
    return train.main(argv)


def convert(argv: list[str]) -> int:
    """Main function of ``tools/convert_datasets/gta.py``."""
    return convert_datasets.main("gta", argv)


def write_jobs(folder: Path) -> tuple[dict[str, Job], dict[str, str]]:
    """Write the inputs of all jobs.

    Args:
        folder: new folder.

    Returns:
        The jobs by name and the environment variables that their commands need. The prediction needs
        ``warm-up.pth`` in `folder`, a copy of the result of the warm-up.
    """
    write_joint_images(folder / "data", train=4, val=2)
    write_images(folder / "images", 8, seed=3)
    write_config(folder / "c.yaml", plugin="plugin_of_faults", module=JOINT_MODULE)
    (folder / "train_jointly.py").write_text(
        "import sys\nfrom tests.faults.jobs import train_jointly\nsys.exit(train_jointly())\n"
    )
    (folder / "prompts.txt").write_text("a busy street\nbus in rain\nsnow and fog\n")
    model = write_stable_diffusion(folder / "sd")
    for number in range(12):
        palette_png(folder / f"gta/labels/{number:05d}.png", blocks(number, range(35)))

    flags = ["--config-file", str(folder / "c.yaml")]
    words = [str(word) for word in _TRAINING]
    prompts = ["--input", str(folder / "prompts.txt"), "--model", str(model), "--steps", "2", "--num-images", "8"]
    weights = ["MODEL.WEIGHTS", str(folder / "warm-up.pth")]
    jobs = {
        "warm-up": Job(
            train.main, ROOT / "train_net.py", lambda out: [*flags, *words, "OUTPUT_DIR", str(out)], ("--resume",)
        ),
        "joint training": Job(
            train_jointly,
            folder / "train_jointly.py",
            lambda out: [*flags, *words, *map(str, JOINT), "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(out)],
            ("--resume",),
        ),
        "generation": Job(
            generate.main,
            ROOT / "generate_txt_im.py",
            lambda out: ["--folder", "set", "--output-root", str(out), "--batch-size", "1", *prompts],
        ),
        "conversion": Job(
            convert,
            ROOT / "tools/convert_datasets/gta.py",
            lambda out: [str(out), "--nproc", "1"],
            script_argv=("--nproc", "2"),
            inputs=folder / "gta",
        ),
        "prediction": Job(
            predict.main,
            ROOT / "tools/predict.py",
            lambda out: [*flags, str(folder / "images/images"), "--output", str(out), *weights],
        ),
    }
    return jobs, {"DETECTRON2_DATASETS": str(folder / "data"), "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


def differences(one: Result, other: Result) -> list[str]:
    """Return the names of what differs between two results."""
    return sorted(name for name in one.keys() | other.keys() if not _equal(one.get(name), other.get(name)))


def _content(path: Path, folder: Path) -> Any:
    """Return the content of a file without times, ids of runs and the name of the folder."""
    if path.suffix == ".pth":
        state = torch.load(path, map_location="cpu", weights_only=False)
        return {**state, "run": None, "settings": {**state["settings"], "OUTPUT_DIR": None}}
    if path.name == "metrics.json":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in row.items() if not k.endswith(("time", "_seconds"))} for row in rows]
    if path.name == "scores.json":
        return {**json.loads(path.read_text()), "time": None}
    if path.name == "dataset.json":
        return {**json.loads(path.read_text()), "runs": None}
    return hashlib.sha256(path.read_bytes().replace(bytes(folder), b"")).hexdigest()


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of checkpoints or records are equal to the last bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all() or one.equal(other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other or (one != one and other != other))
