"""Division of a set among processes: the last line and the exit code of a command say whether the set is complete."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clouds.commands import generate as command
from clouds.errors import UserError
from clouds.generation import painting
from clouds.generation.dataset import GeneratedSet
from clouds.generation.shares import Coverage, coverage
from clouds.utils.world import World

SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}

Generate = Callable[..., tuple[int, str]]


@pytest.fixture
def generate(
    tmp_path: Path, stable_diffusion: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generate:
    """Generate 6 images of a set in batches of 2 as a process with some variables; returns exit code and last line."""
    (tmp_path / "prompts.txt").write_text("a busy street\nbus in rain\n")
    monkeypatch.setattr(painting, "PATIENCE", 0.0)

    def main(*more: str, **environment: str) -> tuple[int, str]:
        flags = ["--folder", "set", "--input", str(tmp_path / "prompts.txt"), "--model", str(stable_diffusion)]
        flags += ["--steps", "1", "--output-root", str(tmp_path), "--num-images", "6", "--batch-size", "2"]
        with monkeypatch.context() as variables:
            for name, value in environment.items():
                variables.setenv(name, value)
            code = command.main([*flags, *more])
        said = capsys.readouterr()
        return code, (said.err if code == 2 else said.out).strip().split("\n")[-1].replace(f"{tmp_path}/", "")

    return main


def images(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "stable_diffusion/set/images").iterdir())


@pytest.mark.parametrize("environment", [{}, SLURM, {**SLURM, "SLURM_STEP_ID": "4294967290"}])
def test_slurm_without_srun_generates_everything(
    generate: Generate, tmp_path: Path, environment: dict[str, str]
) -> None:
    assert generate(**environment) == (0, "stable_diffusion/set: complete: 6 of 6 images exist.")
    assert len(images(tmp_path)) == 6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "1", "WORLD_SIZE": "2"}),
        (
            {**SLURM, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"},
            {**SLURM, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
        ),
    ],
    ids=["torchrun", "srun", "mpirun"],
)
def test_the_last_process_says_whether_the_set_is_complete(
    generate: Generate, tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    code, said = generate(**first)
    assert code == 1
    assert said.startswith("stable_diffusion/set: incomplete: 4 of 6 images exist, and no other process is at work")
    assert images(tmp_path) == ["im_0_p0.png", "im_1_p1.png", "im_4_p0.png", "im_5_p1.png"]
    assert generate(**second) == (0, "stable_diffusion/set: complete: 6 of 6 images exist.")
    assert len(images(tmp_path)) == 6


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "7", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "abc"},
        {"RANK": "0"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
    ],
)
def test_variables_that_contradict_each_other(
    generate: Generate, tmp_path: Path, environment: dict[str, str]
) -> None:  # fmt: skip
    code, said = generate(**environment)
    assert code == 2
    assert said.startswith("error: ")
    assert "WORLD_SIZE" in said or "RANK" in said
    assert not (tmp_path / "stable_diffusion").exists()


def test_while_another_process_is_at_work(generate: Generate, tmp_path: Path) -> None:
    other = GeneratedSet(tmp_path / "stable_diffusion/set")
    other.make_folder()
    other.begin_share("part_0_of_6", World(1, 2))
    two = {"RANK": "0", "WORLD_SIZE": "2"}
    said = "stable_diffusion/set: 4 of 6 images exist; the other processes generate the rest."
    assert generate(**two) == (0, said)
    other.end_share()
    code, said = generate(**two)
    assert code == 1
    assert "incomplete: 4 of 6" in said
    # A process at work on another part does not help this one.
    other.begin_share("part_1_of_6", World(1, 2))
    assert generate(**two)[0] == 1


def test_a_share_that_is_taken(generate: Generate, tmp_path: Path) -> None:
    other = GeneratedSet(tmp_path / "stable_diffusion/set")
    other.make_folder()
    other.begin_share("part_0_of_6", World(0, 2))
    code, said = generate(RANK="0", WORLD_SIZE="2")
    assert code == 2
    assert said.startswith("error: Another process is at work on the same images in")
    assert "also as number 0 of 2" in said
    other.end_share()
    assert generate(RANK="0", WORLD_SIZE="2")[0] == 1


def test_a_killed_process_is_not_at_work(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from clouds.generation.shares import Shares; "
    code += "from clouds.utils.world import World; Shares(Path(sys.argv[1])).take('part', World(1, 2)); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    target = GeneratedSet(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["part.1_of_2"]
    target.shares = type(target.shares)(tmp_path)
    assert not target.has_others("part")
    target.begin_share("part", World(1, 2))


def test_processes_with_another_batch_size_leave_a_gap_that_is_told(generate: Generate) -> None:
    assert generate("--batch-size", "1", RANK="0", WORLD_SIZE="2")[0] == 1
    code, said = generate("--batch-size", "3", RANK="1", WORLD_SIZE="2")
    assert code == 1
    assert "incomplete: 5 of 6 images exist" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--num-images", str(10**8 + 1)], "a set has at most 100,000,000 images"),
        (["--part", str(10**8)], "a set has at most 100,000,000 images"),
        (["--from-manifest", "set", "--images", "0-1000000000000"], "is not a list of numbers below 100,000,000"),
    ],
)
def test_numbers_beyond_any_set(generate: Generate, tmp_path: Path, flags: list[str], says: str) -> None:
    assert generate()[0] == 0
    shutil.copytree(tmp_path / "stable_diffusion/set", tmp_path / "other")
    flags = [str(tmp_path / "other") if flag == "set" else flag for flag in flags]
    code, said = generate(*flags, "--folder", "new")
    assert code == 2
    assert says in said


def test_a_manifest_is_for_one_process(generate: Generate, tmp_path: Path) -> None:
    code, said = generate("--from-manifest", str(tmp_path), RANK="0", WORLD_SIZE="2")
    assert code == 2
    assert "--from-manifest works in one process" in said


def test_coverage() -> None:
    part = range(4, 8)
    assert coverage(part, range(8), [], False) == Coverage(4, 4)
    assert coverage(part, [4, 5, 9], [5, 6, 10], False) == Coverage(4, 2, 1)
    assert [Coverage(4, 2, 1, others).is_fine for others in (True, False)] == [True, False]
    assert str(Coverage(4, 3, 1)) == (
        "complete: 3 of 4 images exist, 1 were rejected in every attempt and are left out"
    )  # fmt: skip
    assert not Coverage(4, 0, 4).is_fine
    assert str(Coverage(4, 0, 4)).startswith("no image was accepted")


def test_two_parts_of_a_set_are_independent(generate: Generate) -> None:
    assert generate("--part", "1") == (0, "stable_diffusion/set: complete: 6 of 6 images exist.")


def test_shares_are_of_one_set(tmp_path: Path) -> None:
    one, other = GeneratedSet(tmp_path), GeneratedSet(tmp_path)
    one.make_folder()
    one.begin_share("part", World())
    with pytest.raises(UserError, match="at work on the same images"):
        other.begin_share("part", World())
    other.begin_share("part", World(1, 2))
    assert one.has_others("part")
    one.end_share()
    one.end_share()
    other.end_share()
    assert not one.has_others("part")
