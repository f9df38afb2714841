"""Variables of launchers: one rule, and one sentence if they contradict each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.errors import UserError
from clouds.utils.world import World, launch_number, restarted_call, restarts_left, torchrun_call, world_from

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "17"}
SRUN = {**SBATCH, "SLURM_PROCID": "2", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World(0, 1, 0)),
        (TORCHRUN, World(3, 8, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, World(1, 2, 0)),
        (MPIRUN, World(2, 6, 0)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, World(1, 2, 1)),
        (SRUN, World(2, 4, 1)),
        ({key: value for key, value in SRUN.items() if key != "SLURM_STEP_NUM_TASKS"}, World(2, 4, 1)),
        # sbatch without srun, and with a task of a job array.
        (SBATCH, World()),
        ({**SBATCH, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "9"}, World()),
        # The shell of salloc: a step with a number of its own, or none.
        ({"SLURM_NTASKS": "4"}, World()),
        ({**SBATCH, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}, World()),
        ({**SBATCH, "SLURM_STEP_ID": "4294967290"}, World()),
        # A launcher inside srun.
        ({**SRUN, **TORCHRUN}, World(3, 8, 1)),
        ({**SRUN, **MPIRUN}, World(2, 6, 0)),
        ({"LOCAL_RANK": "3"}, World()),
    ],
)
def test_position(environment: dict[str, str], world: World) -> None:
    assert world_from(environment) == world


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"RANK": "7", "WORLD_SIZE": "2"},
            "RANK is 7, but WORLD_SIZE is 2: .* numbers 0 to 1; start them with torchrun",
        ),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "0"}, "WORLD_SIZE is not set, but it must be a whole number of at least 1"),
        ({"WORLD_SIZE": "2"}, "RANK is not set, but it must be a whole number of at least 0"),
        ({"RANK": "0", "WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc'"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK is ''"),
        ({"RANK": "1.0", "WORLD_SIZE": "2"}, "RANK is '1.0'"),
        ({"RANK": "9" * 5000, "WORLD_SIZE": "2"}, "RANK is '9{40}'"),
        ({**TORCHRUN, "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is not set"),
        ({**MPIRUN, "OMPI_COMM_WORLD_RANK": "6"}, "OMPI_COMM_WORLD_RANK is 6.*start them with mpirun"),
        ({**SRUN, "SLURM_PROCID": "4"}, "SLURM_PROCID is 4, but SLURM_STEP_NUM_TASKS is 4"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID is not set"),
    ],
)
def test_a_contradiction_is_one_sentence(environment: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        world_from(environment)


NAMES = sorted({*TORCHRUN, *MPIRUN, *SRUN})


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=4) | st.integers(-1, 5).map(str)))
def test_any_variables_give_a_position_or_a_sentence(environment: dict[str, str]) -> None:
    try:
        world = world_from(environment)
    except UserError:
        return
    assert 0 <= world.rank < world.size
    assert world.local_rank >= 0


def test_number() -> None:
    assert launch_number({"LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE", minimum=1) == 4


def test_the_call_of_torchrun() -> None:
    assert torchrun_call({}) is None
    first = {"TORCHELASTIC_RUN_ID": "17", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "1"}
    again = {**first, "TORCHELASTIC_RESTART_COUNT": "1"}
    assert torchrun_call(first) == torchrun_call(again) == restarted_call(again) == "17"
    assert restarted_call(first) is restarted_call({}) is None
    assert [restarts_left(environment) for environment in (first, again, {})] == [True, False, False]
    unnamed = {"TORCHELASTIC_RUN_ID": "none"}
    assert torchrun_call(unnamed) == torchrun_call(unnamed) != "none"
