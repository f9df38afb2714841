"""Start of the processes of a run."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from . import comm

_TIMEOUT = timedelta(minutes=30)  # longest time that a process waits for the others


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
) -> None:
    """Call `main_func(*args)` in every process of the run. Must be called on every machine.

    A run of one process takes place in the calling process.

    Args:
        main_func: function at the top level of a module, so that it can be sent to another process.
        num_gpus_per_machine: number of processes on each machine.
        num_machines: number of machines.
        machine_rank: rank of this machine, from 0.
        dist_url: address at which the processes connect, such as "tcp://host:port"; "auto" (one machine only) is a
            temporary file, which no other program can take in the meantime, as it can a free port.
        args: positional arguments of `main_func`.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url 'auto' is for one machine: give tcp://host:port of machine 0"
    with tempfile.TemporaryDirectory(prefix="clouds-") as folder:
        url = Path(folder, "meeting").as_uri() if dist_url == "auto" else dist_url
        mp.start_processes(
            _worker,
            nprocs=num_gpus_per_machine,
            args=(main_func, world_size, num_gpus_per_machine, machine_rank, url, args),
            daemon=False,
        )


def _worker(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str | None,
    args: tuple[Any, ...],
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        available = torch.cuda.device_count()
        assert num_gpus_per_machine <= available, (
            f"{num_gpus_per_machine} processes need a GPU each, torch finds {available}"
        )
    dist.init_process_group(
        backend="NCCL" if has_gpu else "GLOO",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=_TIMEOUT,
    )
    comm.create_local_process_group(num_gpus_per_machine)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()  # a fast process must not time out on its first collective while others still start
    main_func(*args)
    if dist.is_initialized():
        # At interpreter exit, a Gloo thread that still holds a tensor can abort the process, see `clouds.d2.groups`.
        comm.synchronize()
        dist.destroy_process_group()
