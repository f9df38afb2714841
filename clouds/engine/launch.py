"""Start of the processes of a run, by this module or by torchrun.

If several processes fail, only the first failure is reported. The other processes fail because they cannot communicate
with the first one any more; they stay silent and wait until the process that started them ends them.
"""

import argparse
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from clouds import d2
from clouds.d2 import comm
from clouds.d2.groups import leave_groups
from clouds.engine.launch_checks import TORCHRUN, check_flags, check_torchrun, refuse_part_of_torchrun
from clouds.errors import UserError, machine_error

Work = Callable[..., None]

TIMEOUT = timedelta(minutes=30)  # maximum wait of a process for the others
JOINING = timedelta(minutes=5)  # maximum wait for the others at the start, under torchrun
PATIENCE = 60.0  # seconds after which a process that waits to be ended exits by itself
USER_ERROR = 2  # exit code

_FAILURE = "failure"
# The first process to fail writes its failure here; None in a run with one process.
_report: distributed.Store | None = None


def launch(work: Work, flags: argparse.Namespace, device: str, args: tuple[Any, ...] = ()) -> None:
    """Call ``work(*args)`` in every process of the run.

    Under torchrun, the calling process is one of them. Otherwise ``flags.num_gpus`` processes are started on this
    machine; if that is one, the calling process does the work. Several processes communicate through `clouds.d2.comm`:
    over NCCL on GPUs, where each process has one GPU as its current device, and over Gloo on CPUs, where each process
    uses its share of the cores.

    Args:
        work: function at the top level of a module, because it is pickled.
        flags: ``num_gpus``, ``num_machines``, ``machine_rank``, ``dist_url`` ("auto" for a free port of this machine).
        device: value of ``MODEL.DEVICE``.
        args: picklable arguments of `work`.

    Raises:
        UserError: flags, environment and machine contradict each other; the processes cannot connect; or ``work``
            raised it in the first process to fail. Under torchrun it is raised in that process only.
    """
    check_flags(flags)
    processes = flags.num_gpus * flags.num_machines
    if os.environ.keys() >= TORCHRUN:
        check_torchrun(os.environ)
        if processes != 1:
            raise UserError(
                f"torchrun has started {os.environ['WORLD_SIZE']} process(es), but --num-gpus and --num-machines ask "
                f"for {processes}: leave these two out under torchrun."
            )
        _join_torchrun(work, device, args)
        return
    if flags.num_machines == 1:  # with several machines, some schedulers set these variables for each machine
        refuse_part_of_torchrun(os.environ)
    if processes > 1:
        _start(work, flags, device, args)
    else:
        work(*args)


def failure_elsewhere() -> str | None:
    """Return the message of the first process that failed; None if none has failed."""
    if _report is None:
        return None
    try:
        return _report.get(_FAILURE).decode().partition("\n")[2] if _report.check([_FAILURE]) else None
    except RuntimeError:
        return "the process that connects the others has ended"


def _join_torchrun(work: Work, device: str, args: tuple[Any, ...]) -> None:
    world_size, processes_here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if world_size == 1:
        work(*args)
        return
    on_gpu = _on_gpu(device, processes_here)
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if on_gpu else "gloo"
    try:
        store, rank, _ = next(rendezvous("env://", int(os.environ["RANK"]), world_size, timeout=JOINING))
        store.set_timeout(TIMEOUT)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    except (DistNetworkError, DistStoreError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(_no_connection(f"{address} (MASTER_ADDR, MASTER_PORT)", str(error))) from error
    comm.create_local_process_group(processes_here)
    _one_of_several(distributed.PrefixStore("clouds", store), work, args)


def _start(work: Work, flags: argparse.Namespace, device: str, args: tuple[Any, ...]) -> None:
    on_gpu = _on_gpu(device, flags.num_gpus)
    with tempfile.TemporaryDirectory(prefix="clouds-") as folder, _gpus_hidden(not on_gpu), _torch_quiet():
        report_file = str(Path(folder) / "report")
        # On one machine the processes meet in a file: another program cannot take it, as it can a free port.
        dist_url = (Path(folder) / "meeting").as_uri() if flags.dist_url == "auto" else flags.dist_url
        try:
            d2.launch(
                _started,
                flags.num_gpus,
                num_machines=flags.num_machines,
                machine_rank=flags.machine_rank,
                dist_url=dist_url,
                args=(report_file, work, args),
            )
        except ProcessExitedException as error:
            failure = distributed.FileStore(report_file, -1)
            if error.exit_code == USER_ERROR and failure.check([_FAILURE]):
                raise UserError(failure.get(_FAILURE).decode().partition("\n")[2]) from None
            raise
        except ProcessRaisedException as error:
            problem = re.search(r"^torch\.distributed\.Dist(?:Network|Store)Error: (.*)", str(error), re.MULTILINE)
            if not problem or distributed.FileStore(report_file, -1).check([_FAILURE]):
                raise
            raise UserError(_no_connection(f"{flags.dist_url} (--dist-url)", problem[1])) from None


def _started(report_file: str, work: Work, args: tuple[Any, ...]) -> None:
    """Run in a process that `_start` has started."""
    try:
        _one_of_several(distributed.FileStore(report_file, -1), work, args)
    except UserError:
        # An exception would reach the parent process as a traceback. If several processes fail at the same time, a
        # thread of Gloo may abort the interpreter on its way out.
        logging.shutdown()
        os._exit(USER_ERROR)


def _one_of_several(report: distributed.Store, work: Work, args: tuple[Any, ...]) -> None:
    """Call ``work(*args)``; raise its exception only in the first process to fail."""
    global _report
    _report = report
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))
    try:
        work(*args)
        comm.synchronize()  # a process that leaves early closes connections that another one still reads from
    except Exception as error:
        failure = machine_error(error)
        said = str(failure or error) if failure or isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        own = f"{comm.get_rank()}\n{said}"
        try:
            first = report.compare_set(_FAILURE, "", own).decode()
        except RuntimeError:  # the process that keeps the report has ended
            first = ""
        if first == own:
            if failure:
                raise failure from error
            raise
        time.sleep(PATIENCE)
        raise SystemExit(USER_ERROR) from None
    leave_groups()


def _no_connection(address: str, problem: str) -> str:
    reason = problem.partition("\n")[0].rstrip(".")
    return f"The processes cannot meet at {address}; use the address and a free port of the first machine: {reason}."


def _on_gpu(device: str, processes: int) -> bool:
    """Return whether the processes of this machine work on GPUs; raise `UserError` if there are too few GPUs."""
    kind, _, index = device.partition(":")
    available = torch.cuda.device_count()
    if kind == "cpu" or (kind == "auto" and not available):
        return False
    if kind not in ("auto", "cuda") or index:
        raise UserError(f"MODEL.DEVICE is {device}, which several processes cannot share: use auto, cuda or cpu.")
    if processes > available:
        raise UserError(
            f"{processes} processes on this machine need a GPU each, but torch finds {available}: start fewer, or use "
            "MODEL.DEVICE cpu."
        )
    return True


@contextmanager
def _gpus_hidden(hidden: bool) -> Iterator[None]:
    """Hide the GPUs from processes that are started in this context: detectron2 uses NCCL wherever it sees a GPU."""
    key = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(key)
    if hidden:
        os.environ[key] = ""
    try:
        yield
    finally:
        if hidden:
            del os.environ[key]
            os.environ |= {} if before is None else {key: before}


@contextmanager
def _torch_quiet() -> Iterator[None]:
    """Suppress the warnings of torch about each process that it ends after another one has failed."""
    logger = logging.getLogger("torch.multiprocessing.spawn")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
