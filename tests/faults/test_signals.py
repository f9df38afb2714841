"""Commands that a signal stops finish their step, save, and exit with 75; the same command goes on."""

import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.commands import convert_datasets, train
from tests.engine.test_processes import folder  # noqa: F401  (a fixture)
from tests.faults.processes import ROOT, Child, Line, Processes
from tests.faults.test_disks import case, files, material, straight, struck  # noqa: F401  (two are fixtures)

pytestmark = pytest.mark.slow

convert = functools.partial(convert_datasets.main, "gta")
STOPS = "finishes its step, saves and stops"


def words(folder: Path, out: str, *flags: str) -> list[str]:  # noqa: F811
    opts = "SOLVER.MAX_ITER 400 SOLVER.CHECKPOINT_PERIOD 1000 TEST.EVAL_PERIOD 1000 SOLVER.CHECKPOINT_MINUTES 0"
    more = f"DATALOADER.NUM_WORKERS 1 SOLVER.IMS_PER_BATCH 4 OUTPUT_DIR {folder / out}"
    return ["--config-file", str(folder / "c.yaml"), *flags, *opts.split(), *more.split()]


def finish(child: Child) -> str:
    """The output of a command that has stopped, with all its processes."""
    outcome = child.finish()
    assert (outcome.code, outcome.orphans) == (75, []), outcome.output
    assert "Traceback" not in outcome.output
    assert "leaked" not in outcome.output
    assert outcome.output.count(STOPS) == 1, outcome.output
    return outcome.output


@pytest.mark.parametrize("flags", [(), ("--num-gpus", "2")])
def test_training(processes: Processes, folder: Path, flags: tuple[str, ...]) -> None:  # noqa: F811
    """One process gets a signal as from a terminal, which sends it to the workers, too; of two, the parent alone."""
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "DETECTRON2_DATASETS": str(folder / "data")}
    child = processes.start(train.main, words(folder, "run", *flags), environment=environment)
    assert child.wait_for(Line("iter: 19")), child.output()
    if flags:
        child.send(signal.SIGUSR1)
    else:
        os.killpg(child.pid, signal.SIGINT)
    output = finish(child)
    assert output.splitlines()[-1].endswith("and the same command with --resume goes on.")
    [saved] = (folder / "run").glob("*.pth")
    iteration = int(saved.stem.removeprefix("model_"))
    assert 19 <= iteration < 399
    assert (folder / "run/last_checkpoint").read_text() == saved.name

    opts = ["SOLVER.MAX_ITER", str(iteration + 2)]
    resumed = processes.run(train.main, [*words(folder, "run", "--resume"), *opts], environment=environment)
    assert resumed.code == 0, resumed.output
    assert f"Resumed at iteration {iteration + 1}" in resumed.output


def test_conversion(processes: Processes, tmp_path: Path) -> None:
    """Its workers get the signal, too."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(400):
        Image.fromarray(np.full((256, 256), number % 34, np.uint8)).save(tmp_path / f"labels/{number:05d}.png")
    child = processes.start(convert, [str(tmp_path), "--nproc", "2"])
    while child.code is None and not list((tmp_path / "labels").glob("*_labelTrainIds.png")):
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGTERM)
    finish(child)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "labels").glob("*_labelTrainIds.png")}
    assert 0 < len(written) < 400
    assert not list((tmp_path / "labels").glob("*.part*"))
    again = processes.run(convert, [str(tmp_path), "--nproc", "2"])
    assert again.code == 0, again.output
    assert f"{400 - len(written)} label maps written, {len(written)} existed" in again.output
    assert {path: path.stat().st_mtime_ns for path in written} == written, "they are kept"


@pytest.mark.parametrize("name", ["predict", "evaluate", "submit", "prepare"])
def test_a_command_that_writes_files(
    name: str,
    processes: Processes,
    material: Path,  # noqa: F811
    straight: Callable[[str], Path],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The signal comes before the second file gets its name; the same command goes on."""
    disk = tmp_path_factory.mktemp("stopped")
    one = case(name, material, disk)
    stopped = processes.run(struck, [name, "SIGHUP", disk, one.pattern, 2, *one.words], environment=one.environment)
    assert (stopped.code, stopped.orphans) == (75, []), stopped.output
    assert "Traceback" not in stopped.output
    assert not list(disk.rglob("*.part"))
    kept = files(disk / "out", one.results)
    again = processes.run(struck, [name, "", disk, "no such file", 0, *one.words], environment=one.environment)
    assert again.code == 0, again.output
    found = files(disk / "out", one.results)
    assert kept.items() < found.items()
    assert found == files(straight(name), one.results)
