"""Start of the processes of a run, by this module or by torchrun.

If several processes fail, only the first failure is reported, in one sentence. The other processes fail because they
cannot communicate with the first one any more, or wait for it; see `clouds.engine.peers`.
"""

import argparse
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from clouds.d2 import comm
from clouds.d2.groups import TIMEOUT, join_groups, leave_groups, wait_for_all
from clouds.engine.launch_checks import TORCHRUN, check_flags, check_torchrun, refuse_part_of_torchrun
from clouds.engine.peers import Peers, killed
from clouds.errors import TransientError, UserError, machine_error
from clouds.utils.processes import end_with_parent
from clouds.utils.signals import (
    EXIT_CODE,
    Stopped,
    signals_delayed,
    signals_passed_on,
    stop_on_signals,
)

Work = Callable[..., None]

JOINING = timedelta(minutes=5)  # maximum wait for the others at the start
USER_ERROR = 2  # exit code

_FOREVER = 1e6  # seconds
_ENDING = 2.0  # seconds in which the processes of this machine tell those of others that one of them has ended

logger = logging.getLogger(__name__)

_peers: Peers | None = None  # None in a run with one process


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
        Stopped: ``work`` raised it, in all processes.
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
    """Return the failure of another process that may have caused an exception in this one; None if there is none.

    Waits a few seconds, since the exception may come first.
    """
    return _peers.failure() if _peers else None


def _join_torchrun(work: Work, device: str, args: tuple[Any, ...]) -> None:
    """Call ``work(*args)`` as one of the processes of torchrun."""
    end_with_parent()
    size, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if size == 1:
        work(*args)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} (MASTER_ADDR, MASTER_PORT)"
    store = _join("env://", address, device, rank, size, local_rank, here)

    def end(failure: str, reports: bool) -> NoReturn:
        if reports:
            os.write(2, f"error: {failure}\n".encode())
        os._exit(USER_ERROR)

    try:
        _one_of_several(Peers(store, rank, local_rank, here, end), work, args)
    except Stopped:
        if rank == 0:
            raise
        raise SystemExit(EXIT_CODE) from None  # one of them says it


def _start(work: Work, flags: argparse.Namespace, device: str, args: tuple[Any, ...]) -> None:
    """Start the processes of this machine, and wait for them."""
    hidden = not _on_gpu(device, flags.num_gpus)
    reports, connection = multiprocessing.Pipe(duplex=False)
    # On one machine the processes meet in a file: another program cannot take it, as it can a free port.
    with TemporaryDirectory(prefix="clouds-") as folder, _gpus_hidden(hidden):
        url = (Path(folder) / "meeting").as_uri() if flags.dist_url == "auto" else flags.dist_url
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=_started, args=(index, flags, url, device, connection, work, args))
            for index in range(flags.num_gpus)
        ]
        try:
            with signals_delayed():
                for process in processes:
                    process.start()
            with signals_passed_on():
                _wait(processes, reports, flags.machine_rank * flags.num_gpus)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _wait(processes: list[SpawnProcess], reports: Connection, first_rank: int) -> None:
    """Wait until all processes have ended, or one of them has failed.

    Raises:
        UserError: one has failed.
        Stopped: all have stopped.
    """
    while (running := _running(processes)) and all(process.exitcode in (None, 0, EXIT_CODE) for process in processes):
        wait(running)
    end = time.monotonic() + _ENDING
    while (running := _running(processes)) and (left := end - time.monotonic()) > 0:
        wait(running, left)
    said = reports.recv() if reports.poll() else None
    for rank, process in enumerate(processes, first_rank):
        if process.exitcode == EXIT_CODE:
            raise Stopped(said)
        if process.exitcode:
            raise UserError(said or killed(rank, process.pid))


def _running(processes: list[SpawnProcess]) -> list[int]:
    """Return the sentinels of the processes that have not ended."""
    return [process.sentinel for process in processes if process.exitcode is None]


def _started(
    local_rank: int,
    flags: argparse.Namespace,
    url: str,
    device: str,
    connection: Connection,
    work: Work,
    args: tuple[Any, ...],
) -> None:
    """Run in a process that `_start` has started."""
    end_with_parent()
    multiprocessing.set_start_method(None, force=True)  # it is inherited, and workers of the loader would import torch

    def end(message: str, reports: bool, code: int = USER_ERROR) -> NoReturn:
        if reports:
            connection.send(message)
        os._exit(code)

    here, size = flags.num_gpus, flags.num_gpus * flags.num_machines
    rank = flags.machine_rank * here + local_rank
    try:
        with stop_on_signals(for_parent=True):
            store = _join(url, f"{url} (--dist-url)", device, rank, size, local_rank, here)
            _one_of_several(Peers(store, rank, local_rank, here, end), work, args)
    except (UserError, Stopped) as error:
        # An exception would be printed with its traceback. If several processes fail at the same time, a thread of Gloo
        # may abort the interpreter on its way out.
        logging.shutdown()
        end(str(error), True, EXIT_CODE if isinstance(error, Stopped) else USER_ERROR)


def _join(url: str, address: str, device: str, rank: int, size: int, local_rank: int, here: int) -> distributed.Store:
    """Connect this process with the others, and return a store that it shares with them."""
    on_gpu = _on_gpu(device, here)
    if on_gpu:
        torch.cuda.set_device(local_rank)
    try:
        store, _, _ = next(rendezvous(url, rank, size, timeout=JOINING))
        store.set_timeout(TIMEOUT)
        # torchrun keeps its store when it restarts processes: they would connect to those that have ended.
        store = distributed.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        join_groups("nccl" if on_gpu else "gloo", store, rank, size, here)
    except RuntimeError as error:  # of the store or the backend
        raise TransientError(_no_connection(address, str(error))) from error
    # A copy with a connection of its own: one that waits for a value keeps others from asking.
    return distributed.PrefixStore("clouds", store.clone())


def _one_of_several(peers: Peers, work: Work, args: tuple[Any, ...]) -> None:
    """Call ``work(*args)``; raise its exception, as a `UserError`, only in the first process to fail."""
    global _peers
    _peers = peers
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))
    try:
        with _leaving(peers):
            work(*args)
    except Exception as error:
        failure = error if isinstance(error, UserError) else machine_error(error) or _defect(error)
        if peers.report(str(failure)):
            raise failure from error
        time.sleep(_FOREVER)  # until `peers` ends this process


@contextmanager
def _leaving(peers: Peers) -> Iterator[None]:
    """Leave the other processes at the end of this context, unless this process has failed."""
    stopped = None
    try:
        yield
    except Stopped as error:  # all processes stop together
        stopped = error
    wait_for_all()  # a process that leaves early closes connections that another one still reads from
    peers.leave()
    leave_groups()
    if stopped:
        raise stopped


def _defect(error: Exception) -> TransientError:
    """Log the traceback of an exception that is not meant for the user, and describe it in one sentence."""
    if isinstance(error, RuntimeError) and (cause := failure_elsewhere()):
        return TransientError(cause)
    logger.error("This process has failed:", exc_info=error)
    kind = type(error).__name__
    return TransientError(
        f"Process {comm.get_rank()} of the run has failed; its log has the traceback: {kind}: {error}"
    )


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
