"""No process outlives its parent, and of several processes that train together, one that dies ends all."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from clouds.commands import train
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import write_config
from tests.faults.processes import PROC, ROOT, Child, Line, Processes

pytestmark = pytest.mark.slow

SECONDS = 60  # in which the others end, on a machine under load; half a timeout of a collective would be five minutes


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a training of a small CLOUDS in `run`, which goes on forever."""
    write_images(tmp_path / "data/train", 6)
    write_images(tmp_path / "data/val", 3, seed=1)
    config = write_config(tmp_path / "c.yaml", backbone="CLIP", plugin="plugin_for_faults")
    words = ["--config-file", str(config), "OUTPUT_DIR", str(tmp_path / "run")]
    return [*words, "SOLVER.MAX_ITER", "1000000", "TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", "1"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PYTHONFAULTHANDLER": "1",
        "DETECTRON2_DATASETS": str(tmp_path / "data"),
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }


def in_background(argv: list[str]) -> int:
    """Train as a background job of a shell, which ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return train.main(argv)


def ranks(command: Child, starts: int = 1) -> list[int]:
    """Wait until the processes of a command train, for the n-th time, and return their ids."""
    assert command.wait_for(Line("Starting training from iteration", starts)), command.output()
    words = ("multiprocessing.spawn", "train_net.py")
    children = {pid: line for pid, line in command.processes().items() if parent(pid) == command.pid}
    return [pid for pid, line in children.items() if any(word in line for word in words)]


def parent(pid: int) -> int:
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error: ")]


def test_a_killed_launcher_leaves_no_process(
    processes: Processes, arguments: list[str], environment: dict[str, str]
) -> None:
    command = processes.start(in_background, ["--num-gpus", "2", *arguments], environment=environment)
    assert len(ranks(command)) == 2
    assert len(command.processes()) > 2 + 2, "each has a worker, and there is the one that tracks resources"
    command.send(signal.SIGKILL)
    outcome = command.finish(grace=SECONDS)
    assert (outcome.code, outcome.orphans) == (-signal.SIGKILL, []), outcome.output


def test_a_killed_process_ends_the_others(
    processes: Processes, arguments: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    command = processes.start(train.main, ["--num-gpus", "2", *arguments], environment=environment)
    os.kill(ranks(command)[1], signal.SIGKILL)
    began = time.monotonic()
    outcome = command.finish(grace=SECONDS)
    assert time.monotonic() - began < SECONDS
    assert (outcome.code, outcome.orphans) == (2, []), outcome.output
    (said,) = errors(outcome.output)
    assert "of the run (id" in said and "was killed" in said
    assert "Traceback" not in outcome.output
    assert "Traceback" not in "".join(path.read_text() for path in (tmp_path / "run").glob("log.txt*"))


def test_torchrun_resumes_by_itself(
    processes: Processes, arguments: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", str(ROOT / "train_net.py"), *arguments]
    torchrun = Path(torch.__file__).parent / "distributed/run.py"
    command = processes.start(torchrun, [*words, "SOLVER.CHECKPOINT_PERIOD", "1"], environment=environment)
    trained = ranks(command)
    while not (tmp_path / "run/last_checkpoint").exists():
        time.sleep(0.05)
    os.kill(trained[0], signal.SIGKILL)
    assert len(ranks(command, 2)) == 2
    assert "Starting training from iteration 0" not in command.output().partition("Sending process")[2]
    first, second = json.loads((tmp_path / "run/run.json").read_text())
    assert (first["kind"], second["kind"]) == ("training", "training, resumed")
    assert first["run"] == second["run"]
    command.send(signal.SIGKILL)
    outcome = command.finish(grace=SECONDS)
    assert (outcome.code, outcome.orphans) == (-signal.SIGKILL, [])


def test_an_interrupt_while_processes_import_modules(
    processes: Processes, arguments: list[str], environment: dict[str, str]
) -> None:
    command = processes.start(train.main, ["--num-gpus", "2", *arguments], environment=environment)
    while sum("multiprocessing.spawn" in line for line in command.processes().values()) < 2:
        time.sleep(0.02)
    os.killpg(command.pid, signal.SIGINT)
    outcome = command.finish(grace=SECONDS)
    assert outcome.orphans == []
    assert outcome.code == 75, outcome.output
    assert "Traceback" not in outcome.output
