"""Communication between processes. With a single process every function returns at once, with the same meaning."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: Any = None
_NO_LOCAL_GROUP = (
    "There is no process group for this machine: start the processes with `clouds train`, or call "
    "comm.create_local_process_group(processes_per_machine) after torch.distributed.init_process_group()."
)


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes on all machines."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Rank of this process among all processes, from 0."""
    return dist.get_rank() if _initialized() else 0


@functools.lru_cache  # once per process: the groups are global
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the group of the processes on this machine. Collective: every process calls it, also under torchrun."""
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "The local process group exists already"
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, f"{world_size} processes, {num_workers_per_machine} a machine"
    for first in range(0, world_size, num_workers_per_machine):
        ranks = range(first, first + num_workers_per_machine)
        group = dist.new_group([*ranks])  # collective: every process creates every group
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> Any:
    """Return the group of the processes on this machine; AssertionError before it is created."""
    assert _LOCAL_PROCESS_GROUP is not None, _NO_LOCAL_GROUP
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Rank of this process among the processes on its machine, from 0."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _initialized() else 1


def is_main_process() -> bool:
    """Return whether this is rank 0, which prints and writes."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has called this function."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _cpu_group() -> Any:
    # Python objects travel over gloo, so that gathering them takes no GPU memory.
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def all_gather(data: Any) -> list[Any]:
    """Return the picklable `data` of every process, in the order of ranks, on every process."""
    if get_world_size() == 1:
        return [data]
    group = _cpu_group()
    output: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any) -> list[Any]:
    """Return the picklable `data` of every process, in the order of ranks, on rank 0; an empty list on other ranks."""
    if get_world_size() == 1:
        return [data]
    group = _cpu_group()
    if get_rank() != 0:
        dist.gather_object(data, None, dst=0, group=group)
        return []
    output: list[Any] = [None] * dist.get_world_size(group)
    dist.gather_object(data, output, dst=0, group=group)
    return output


def shared_random_seed() -> int:
    """Draw a random number in [0, 2**31) that is equal on all processes. Collective: every process calls it."""
    return all_gather(int(np.random.randint(2**31)))[0]  # noqa: NPY002 - follows the run's global seed, as detectron2's
