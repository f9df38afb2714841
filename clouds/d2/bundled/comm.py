"""Talk between processes. With one process every function is a cheap no-op of the same meaning."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: Any = None
_NO_LOCAL_GROUP = (
    "There is no process group for this machine: start the processes with launch(), or call "
    "comm.create_local_process_group(processes_per_machine) after torch.distributed.init_process_group()."
)


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes on all machines."""
    return dist.get_world_size() if _initialised() else 1


def get_rank() -> int:
    """Number of this process among all, from 0."""
    return dist.get_rank() if _initialised() else 0


@functools.lru_cache  # once a process: the groups are global
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the group of the processes on this machine. All processes must call it together, also under torchrun."""
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "The local process group exists already"
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, f"{world_size} processes, {num_workers_per_machine} a machine"
    for first in range(0, world_size, num_workers_per_machine):
        ranks = range(first, first + num_workers_per_machine)
        group = dist.new_group([*ranks])  # collective: every process makes every group
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> Any:
    """The group of the processes on this machine."""
    assert _LOCAL_PROCESS_GROUP is not None, _NO_LOCAL_GROUP
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return dist.get_rank(group=get_local_process_group()) if _initialised() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _initialised() else 1


def is_main_process() -> bool:
    """Whether this is rank 0, the one that prints and writes."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process is here."""
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


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """The picklable `data` of every process, in rank order, on every process."""
    if get_world_size() == 1:
        return [data]
    group = _cpu_group() if group is None else group
    output: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """The picklable `data` of every process, in rank order, on process `dst`; an empty list on the others."""
    if get_world_size() == 1:
        return [data]
    group = _cpu_group() if group is None else group
    if dist.get_rank(group=group) != dst:
        dist.gather_object(data, None, dst=dst, group=group)
        return []
    output: list[Any] = [None] * dist.get_world_size(group=group)
    dist.gather_object(data, output, dst=dst, group=group)
    return output


def shared_random_seed() -> int:
    """A random number in [0, 2**31) that all processes agree on; all must call it."""
    return all_gather(int(np.random.randint(2**31)))[0]  # noqa: NPY002 - follows the run's global seed, as detectron2's


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sum scalar tensors over the processes (or average them) onto rank 0; elsewhere the values mean nothing."""
    world_size = get_world_size()
    if world_size == 1:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)  # the same order everywhere
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values /= world_size
    return dict(zip(names, values, strict=True))
