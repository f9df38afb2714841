"""Trainings that cannot end well, on real small file systems and with little memory."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clouds.commands import train
from tests.engine.conftest import write_images
from tests.engine.test_end_to_end import write_config
from tests.faults.processes import Processes

pytestmark = pytest.mark.slow

resource = pytest.importorskip("resource")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the data, the plug-in and the config of a small training, whose checkpoints have 6 MB."""
    folder = tmp_path_factory.mktemp("task")
    for split in ("train", "val"):
        write_images(folder / "data" / split, 3)
    write_config(folder / "c.yaml")
    return folder


def run(processes: Processes, task: Path, *flags: str, keys: tuple[str, ...], main: Callable = train.main):
    """Train for four iterations, with a checkpoint after each."""
    words = ["--config-file", str(task / "c.yaml"), *flags, "SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "0", *keys]
    environment = {"DETECTRON2_DATASETS": str(task / "data"), "PYTHONPATH": str(task)}
    outcome = processes.run(main, words, environment=environment)
    assert outcome.orphans == []
    return outcome


def test_a_disk_that_cannot_hold_the_checkpoints(
    processes: Processes, tmpfs: Callable[[str], Path], task: Path
) -> None:
    folder = tmpfs("20m")
    keys = ("OUTPUT_DIR", str(folder / "run"), "SOLVER.CHECKPOINT_PERIOD", "1")
    dry = run(processes, task, "--dry-run", keys=keys)
    sentence = rf"error: The disk of {folder}/run has [\d.]+ MB free, and the run needs at least [\d.]+ MB there"
    assert dry.code == 2, dry.output
    assert re.search(sentence, dry.output.splitlines()[-1])
    assert "  free " in dry.output, "the table comes first"
    assert list(folder.iterdir()) == []

    stopped = run(processes, task, keys=keys)
    assert stopped.code == 2, stopped.output
    assert re.search(sentence, stopped.output.splitlines()[-1])
    assert "Traceback" not in stopped.output

    # One of them beside the final one is enough room.
    keys = (*keys, "SOLVER.CHECKPOINTS_KEPT", "1")
    kept = run(processes, task, keys=keys)
    assert kept.code == 0, kept.output
    assert (folder / "run/model_final.pth").is_file()
    # A run that goes on replaces its own checkpoints.
    resumed = run(processes, task, "--resume", keys=(*keys, "SOLVER.MAX_ITER", "6"))
    assert resumed.code == 0, resumed.output


def little_memory(argv: list[str]) -> int:
    """Train with 3 GB of memory for each process, as on a machine that has no more."""
    resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, 3 * 10**9))
    return train.main(argv)


def test_crops_that_do_not_fit_into_the_memory(processes: Processes, tmp_path: Path, task: Path) -> None:
    keys = ("OUTPUT_DIR", str(tmp_path / "run"), "INPUT.CROP_SIZE", "(16384, 16384)", "SOLVER.IMS_PER_BATCH", "1")
    outcome = run(processes, task, "--dry-run", keys=keys, main=little_memory)
    assert outcome.code == 2, outcome.output
    last = outcome.output.splitlines()[-1]
    assert last.startswith("error: The memory is not sufficient for further "), last
    assert "lower SOLVER.IMS_PER_BATCH or INPUT.CROP_SIZE" in last
    assert "Traceback" not in outcome.output
