"""Checkpoints that are being written while their process dies, ends or runs out of disk."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clouds.commands import train
from clouds.engine.checkpointing.checkpoint import Checkpointer
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import ROOT, write_config
from tests.engine.test_resume import rows, same, trained
from tests.faults.child import Event
from tests.faults.processes import Processes

pytestmark = pytest.mark.slow

# A checkpoint after each step, by the clock of the main process alone.
OPTS = "SOLVER.CHECKPOINT_MINUTES 1e-6 SOLVER.CHECKPOINTS_KEPT 2 SOLVER.MAX_ITER 6 SOLVER.IMS_PER_BATCH 2"
OPTS += " TEST.EVAL_PERIOD 3 TEST.SELECT_ON plugin_val"

Command = Callable[..., tuple[list[str], dict[str, str]]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Function that returns the command line of a training in a folder, and its environment."""
    write_images(tmp_path / "data/train", 6)
    write_images(tmp_path / "data/val", 3, seed=1)
    write_config(tmp_path / "c.yaml", plugin="plugin_for_checkpoints")
    variables = {"DETECTRON2_DATASETS": str(tmp_path / "data"), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def words(folder: Path, *flags: str) -> tuple[list[str], dict[str, str]]:
        argv = ["--config-file", str(tmp_path / "c.yaml"), *flags, "OUTPUT_DIR", str(folder), *OPTS.split()]
        return argv, {**variables, "OMP_NUM_THREADS": "1"}

    return words


def die_in_a_write(argv: Sequence[str]) -> int:
    """Train, and be killed with half of a checkpoint written, when the training is two iterations further."""
    save, save_beside = torch.save, Checkpointer.save
    begun: list[int] = []

    def save_twice(self: Checkpointer, name: str, **extra: Any) -> None:
        begun.append(extra["iteration"])
        save_beside(self, name, **extra)

    def half(content: dict[str, Any], file: Any) -> None:
        if content.get("iteration") == 3 and "score" not in content:
            file.write(b"half a checkpoint")
            file.flush()
            while begun[-1] < 4:  # the main thread then waits for this one
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, file)

    torch.save, Checkpointer.save = half, save_twice
    return train.main(list(argv))


def end_while_writing(argv: Sequence[str]) -> None:
    """Save a checkpoint and return, as a script that does not wait for it."""
    save = torch.save

    def slow(content: dict[str, Any], file: Any) -> None:
        time.sleep(0.5)
        save(content, file)

    torch.save = slow
    Checkpointer(torch.nn.Linear(2, 2), argv[0]).save("model_0000001", iteration=1)


def equal(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    for name in ("model_final.pth", "model_best.pth"):
        assert same(trained(one / name), trained(other / name)), name
    assert (one / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(one.glob("model_*.part"))  # that of another file stays for an hour


def test_killed_while_the_thread_writes(processes: Processes, command: Command, tmp_path: Path) -> None:
    """Killed in the middle of a file, then before changes of the folder in the second half of the run."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    argv, environment = command(straight)
    whole = processes.run(train.main, argv, event=Event(0, straight), environment=environment)
    assert (whole.code, whole.orphans) == (0, []), whole.output

    argv, environment = command(killed)
    assert processes.run(die_in_a_write, argv, environment=environment).code == -signal.SIGKILL
    assert (killed / "last_checkpoint").read_text() == "model_0000002.pth"
    assert [path.suffix for path in killed.glob("model_0000003*")] == [".part"]
    resumed = processes.run(train.main, command(killed, "--resume")[0], environment=environment)
    assert resumed.code == 0, resumed.output
    assert "Starting training from iteration 3" in resumed.output
    equal(killed, straight)

    for number in range(whole.changes // 2, whole.changes, max(1, whole.changes // 4)):
        shutil.rmtree(killed)
        outcome = processes.run_and_kill(train.main, argv, Event(number, killed), environment=environment)
        assert outcome.code == -signal.SIGKILL, outcome.output
        complete = [torch.load(path, weights_only=True) for path in killed.glob("model_*.pth")]
        assert len(complete) <= 5
        resumed = processes.run(train.main, command(killed, "--resume")[0], environment=environment)
        assert (resumed.code, resumed.orphans) == (0, []), resumed.output
        equal(killed, straight)


def test_a_process_that_ends_completes_its_file(processes: Processes, tmp_path: Path) -> None:
    assert processes.run(end_while_writing, [str(tmp_path)]).code == 0
    assert torch.load(tmp_path / "model_0000001.pth")["iteration"] == 1
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_a_full_disk_ends_two_processes_with_one_sentence(
    processes: Processes, command: Command, tmpfs: Callable[[str], Path], tmp_path: Path
) -> None:
    """The main process alone writes, and meets the failure alone; then there is room again."""
    folder = tmpfs("15m") / "run"  # for two checkpoints and a half
    argv, environment = command(folder, "--num-gpus", "2", "--force")  # or the first iteration finds the disk too small
    argv += ["SOLVER.IMS_PER_BATCH", "4"]
    full = processes.run(train.main, argv, environment=environment)
    assert (full.code, full.orphans) == (2, []), full.output
    assert full.output.count("error: ") == 1
    assert "model_0000002.pth cannot be written (its disk is full): make room" in full.output
    assert "Traceback" not in full.output
    assert not list(folder.glob("*.part"))
    assert (folder / "last_checkpoint").read_text() == "model_0000001.pth"
    shutil.copytree(folder, tmp_path / "run")
    argv, environment = command(tmp_path / "run", "--resume")
    resumed = processes.run(train.main, [*argv, "SOLVER.IMS_PER_BATCH", "4"], environment=environment)
    assert resumed.code == 0, resumed.output
    assert "Starting training from iteration 2" in resumed.output
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_final.pth"
