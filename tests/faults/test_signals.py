"""Commands that a signal stops finish their step, save, and exit with 75; the same command goes on."""

import os
import signal
from pathlib import Path

import pytest

from clouds.commands import train
from tests.engine.test_processes import folder  # noqa: F401  (a fixture)
from tests.faults.processes import ROOT, Child, Line, Processes

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
    assert outcome.output.count(STOPS) == 1, outcome.output
    return outcome.output


@pytest.mark.parametrize("flags", [(), ("--num-gpus", "2")])
def test_training(processes: Processes, folder: Path, flags: tuple[str, ...]) -> None:  # noqa: F811
    """A signal to the whole process group, as from a terminal, and one to the main process alone."""
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "DETECTRON2_DATASETS": str(folder / "data")}
    child = processes.start(train.main, words(folder, "run", *flags), environment=environment)
    assert child.wait_for(Line("iter: 19")), child.output()
    os.killpg(child.pid, signal.SIGINT)
    print(finish(child))
