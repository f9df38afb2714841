"""Generation by several processes, of which one is killed and one is stopped."""

import signal
import time
from pathlib import Path

import pytest

from clouds.commands import generate
from tests.faults.processes import TIMEOUT, Child, Processes
from tests.generation.pipelines import write_stable_diffusion

pytestmark = pytest.mark.slow

NUM_IMAGES = 120


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Flags of the command without the name of the set."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a busy street\nbus in rain\nsnow and fog\n")
    model = write_stable_diffusion(tmp_path / "model")
    sizes = ["--num-images", str(NUM_IMAGES), "--steps", "2"]
    return ["--input", str(prompts), "--model", str(model), *sizes, "--output-root", str(tmp_path)]


def wait_until_both_paint(ranks: list[Child], images: Path) -> None:
    """Wait until both ranks have written an image; the first one is stopped meanwhile so that it cannot finish."""
    end, held = time.monotonic() + TIMEOUT, set[int]()
    while len(held) < 2 and time.monotonic() < end:
        for file in images.glob("*.png"):
            rank = int(file.name.split("_")[1]) // 4 % 2  # ranks take the batches in turn
            if rank not in held:
                held.add(rank)
                ranks[rank].send(signal.SIGSTOP)
        assert all(rank.code is None for rank in ranks), [rank.output() for rank in ranks]
        time.sleep(0.002)
    for rank in ranks:
        rank.send(signal.SIGCONT)


def test_two_ranks_a_kill_and_a_stop(flags: list[str], processes: Processes, tmp_path: Path) -> None:
    whole, shared = (tmp_path / "stable_diffusion" / name for name in ("whole", "shared"))
    done = processes.run(generate.main, ["--folder", "whole", *flags])
    assert done.code == 0, done.output

    def start() -> list[Child]:
        return [
            processes.start(
                generate.main, ["--folder", "shared", *flags], environment={"RANK": str(rank), "WORLD_SIZE": "2"}
            )
            for rank in range(2)
        ]

    ranks = start()
    wait_until_both_paint(ranks, shared / "images")
    ranks[0].send(signal.SIGKILL)
    ranks[1].send(signal.SIGINT)
    killed, stopped = (rank.finish() for rank in ranks)
    assert (killed.code, stopped.code) == (-signal.SIGKILL, 75), stopped.output
    assert "Stopped by SIGINT: what is written stays, and the same command goes on." in stopped.output
    assert len(list((shared / "images").glob("*.png"))) < NUM_IMAGES
    ends = [rank.finish() for rank in start()]
    assert [end.code for end in ends] == [0, 0], [end.output for end in ends]
    assert (shared / "manifest.jsonl").read_bytes() == (whole / "manifest.jsonl").read_bytes()
    images = [{path.name: path.read_bytes() for path in (folder / "images").iterdir()} for folder in (whole, shared)]
    assert images[0] == images[1]
    assert len(images[0]) == NUM_IMAGES
