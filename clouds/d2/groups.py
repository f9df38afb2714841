"""Start and end of the communication between processes."""

from datetime import timedelta
from functools import cache
from typing import Any

from torch import distributed

from clouds.d2 import comm

TIMEOUT = timedelta(minutes=10)
"""Maximum wait of a process for the others in a collective, where all of them do equal work."""

_PATIENT_TIMEOUT = timedelta(hours=2)


def join_groups(backend: str, store: distributed.Store, rank: int, size: int, processes_here: int) -> None:
    """Create all process groups. Every process of a run with several processes calls this once, together.

    Args:
        backend: "nccl" or "gloo".
        store: shared by all processes.
        rank: rank of this process.
        size: number of processes.
        processes_here: number of processes on each machine.
    """
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    comm.create_local_process_group(processes_here)
    wait_for_all()  # a fast process must not wait for slow ones in its first collective


def wait_for_all() -> None:
    """Wait until every process has called this function, for up to two hours.

    Processes call it where their work differs, such as after their shares of a test set, or before they leave: a
    collective alone fails after `TIMEOUT`.
    """
    if comm.get_world_size() > 1:
        distributed.barrier(_patient_group())


def leave_groups() -> None:
    """Destroy all process groups. Every process calls this at its end, after `wait_for_all`.

    A Gloo thread that still holds a tensor when the interpreter exits aborts the process. Its threads end with the last
    reference to a group, and `comm` keeps some.
    """
    distributed.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    for function in (*vars(comm).values(), _patient_group):
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@cache
def _patient_group() -> Any:
    return distributed.new_group(backend="gloo", timeout=_PATIENT_TIMEOUT)
