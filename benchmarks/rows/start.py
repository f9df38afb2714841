"""Start of a training: from the command to the end of the first iteration, in a process of its own.

The published code embeds the names of all classes with all templates before its first iteration, also for the head that
classifies without text. The peer is our start with this work added, which is less than what the published code does.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clouds.data.preparation.converters import convert_folder
from rows import FORMULATION, OURS, Sizes
from rows.published_data import write_gta5

ROOT = Path(__file__).resolve().parents[2]


def prepare(sizes: Sizes) -> dict[str, Any]:
    """Write a data set of two images, in the folders of GTA5."""
    folder = Path(sizes["folder"]) / "gta5"
    write_gta5(folder, 2, (1052, 1914))
    convert_folder("gta", folder)
    return {}


class Start:
    """Starts a training in a new process, and ends it after its first iteration.

    Args:
        words: command line.
        folder: data root, and working folder.
    """

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self.words, self.folder = words, folder
        self.seconds: dict[str, float] = {}  # of the last start, by stage

    def __call__(self) -> float:
        """Return the loss of the iteration."""
        path = f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"
        environment = {**os.environ, "DETECTRON2_DATASETS": str(self.folder), "PYTHONPATH": path}
        done = subprocess.run(self.words, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("total_loss ")), None)
        assert line is not None, done.stdout[-2000:] + done.stderr[-2000:]
        stages = re.findall(r"^seconds (\S+) (.+)$", done.stdout, re.MULTILINE)
        self.seconds = {stage: float(seconds) for seconds, stage in stages}
        return float(line.split()[1])

    def parts(self) -> list[tuple[str, float]]:
        """Return the share of each stage in the processor time of a start."""
        self()
        whole = sum(self.seconds.values())
        return [(stage, seconds / whole) for stage, seconds in self.seconds.items()]


def build(side: str, sizes: Sizes) -> Start:
    """Return a call that starts a training and ends it after its first iteration."""
    folder = Path(sizes["folder"])
    words = [sys.executable, str(Path(__file__).with_name("first_iteration.py")), str(folder)]
    words += ["--text"] if side == FORMULATION else []
    words += ["--miniature"] if sizes["miniature"] else []
    return Start(words, folder)


SIDES = {side: partial(build, side) for side in (OURS, FORMULATION)}


def check(results: Mapping[str, Any]) -> str:
    """Compare the losses of the first iteration."""
    ours, theirs = results[OURS], results[FORMULATION]
    assert abs(ours / theirs - 1) < 1e-6, f"the losses are {ours} and {theirs}"
    return "losses of the first iteration are equal"
