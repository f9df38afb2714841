"""Position of this process among the processes that a launcher has started, from the variables that it sets.

The rule: the first launcher of this table whose variables are set counts, and without any there is one process.

| launcher | rank | number of processes |
|---|---|---|
| torchrun, or by hand | `RANK` | `WORLD_SIZE` |
| mpirun (Open MPI) | `OMPI_COMM_WORLD_RANK` | `OMPI_COMM_WORLD_SIZE` |
| mpiexec (MPICH, Intel MPI) | `PMI_RANK` | `PMI_SIZE` |
| srun | `SLURM_PROCID` | `SLURM_STEP_NUM_TASKS` |

torchrun comes first and srun last, because torchrun and mpirun may run inside srun, where SLURM's variables count
machines. `SLURM_NTASKS` alone starts no process: it is also set in the script of sbatch and in the shell of salloc.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from clouds.errors import UserError


@dataclass(frozen=True)
class World:
    """Position of this process among the processes that share the work.

    Attributes:
        rank: number of this process, 0..size-1.
        size: number of processes.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


class _Variables(NamedTuple):
    launcher: str
    rank: str
    size: str
    local_rank: str


_TORCHRUN = _Variables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK")
_LAUNCHERS = (
    _TORCHRUN,
    _Variables("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    _Variables("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    _Variables("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
_SPECIAL_STEPS = 0xFFFF_FFF0  # steps from this number on are the script of sbatch and the shell of salloc


def world_from(environment: Mapping[str, str] = os.environ) -> World:
    """Return the position of this process; one process without the variables of a launcher.

    Raises:
        UserError: a variable is missing or not a number, or the rank is not below the number of processes.
    """
    environment = _with_step_size(environment)
    for variables in _LAUNCHERS:
        if variables.size in environment or (variables is _TORCHRUN and variables.rank in environment):
            return _read(environment, variables)
    return World()


def launch_number(environment: Mapping[str, str], name: str, *, minimum: int = 0) -> int:
    """Return the whole number in a variable that a launcher sets.

    Args:
        environment: name -> value.
        name: name of the variable.
        minimum: smallest valid value.

    Raises:
        UserError: the variable is missing, not a whole number, or below `minimum`.
    """
    text = environment.get(name)
    if text is None or not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= minimum):
        found = "is not set" if text is None else f"is {text[:40]!r}"
        raise UserError(
            f"The environment variable {name} {found}, but it must be a whole number of at least {minimum}, as a "
            "launcher such as torchrun sets it: start the processes with the launcher, or unset its variables."
        )
    return int(text)


def torchrun_call(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return an id of the call of torchrun that has started this process; None without torchrun.

    Processes that torchrun has restarted have the same id. It is the one that ``--rdzv-id`` or ``--standalone`` give to
    the call, otherwise the process of torchrun.
    """
    call = environment.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()}:{os.getppid()}" if call == "none" else call


def restarted_call(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return `torchrun_call` if torchrun has started this process again after a failure, ``--max-restarts``."""
    is_restarted = environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return torchrun_call(environment) if is_restarted else None


def restarts_left(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether torchrun would start the processes again after a failure."""
    count, most = (environment.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return count.isdecimal() and most.isdecimal() and int(count) < int(most)


def _read(environment: Mapping[str, str], variables: _Variables) -> World:
    rank = launch_number(environment, variables.rank)
    size = launch_number(environment, variables.size, minimum=1)
    if rank >= size:
        raise UserError(
            f"{variables.rank} is {rank}, but {variables.size} is {size}: the {size} process(es) have the numbers 0 to "
            f"{size - 1}; start them with {variables.launcher}, or unset both variables."
        )
    local_rank = launch_number({variables.local_rank: "0", **environment}, variables.local_rank)
    return World(rank, size, local_rank)


def _with_step_size(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Add the number of tasks of a step of srun that names only its number."""
    step = environment.get("SLURM_STEP_ID", "")
    if not step.isdecimal() or int(step[:20]) >= _SPECIAL_STEPS or "SLURM_NTASKS" not in environment:
        return environment
    return {"SLURM_STEP_NUM_TASKS": environment["SLURM_NTASKS"], **environment}
