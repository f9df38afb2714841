"""Batches from worker processes, which may be killed or hang.

Workers only read, so they can be killed and started again at any time: the batches depend on their numbers alone.
"""

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

import cv2
import torch

from clouds.d2 import comm
from clouds.errors import UserError
from clouds.utils.processes import end_with_parent
from clouds.utils.signals import leave_signals_to_parent

logger = logging.getLogger(__name__)

PATIENCE = 100.0
"""Seconds without the next batch after which the workers count as hanging."""

_LOOK = 1.0  # seconds in which the end of a worker is noticed
_MOST_FILES = 3  # names of files in a message
_LACKS = {"SIGKILL": "the machine has too little memory", "SIGBUS": "the shared memory, /dev/shm, is full"}

B = TypeVar("B")


class WorkerBatches(Iterator[B], Generic[B]):
    """Iterator over batches that starts its workers again, once, if one of them ends or all hang.

    The batches are those of undisturbed workers: the new ones begin at the first batch that was not handed out.
    """

    def __init__(
        self,
        start: Callable[[int], Iterable[B]],
        files: Callable[[int], list[str]],
        *,
        patience: float = PATIENCE,
        setting: str = "num_workers",
    ) -> None:
        """
        Args:
            start: returns the `DataLoader` of the batches from a number on, with `worker_arguments`.
            files: returns the names of the files of the batch with a number, for messages.
            patience: seconds without a batch after which the workers count as hanging. Seconds in which this process
                is suspended, too, do not count.
            setting: name of the setting with the number of workers, for messages.
        """
        self._start = start
        self._files = files
        self._patience = patience
        self._setting = setting
        self._done = 0
        self._restarted = False
        self._open()

    def __next__(self) -> B:
        while True:
            try:
                with _deadline(self._patience, self._workers) as passed:
                    batch = self._wait()
            except (RuntimeError, OSError, EOFError):  # a worker that dies also breaks its connections
                if not (ended := self._ended()):
                    raise
                self._start_again([] if passed.is_set() else ended)
            else:
                self._done += 1
                return batch

    def _wait(self) -> B:
        while True:
            try:
                return next(self._batches)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise

    def _open(self) -> None:
        with _without_torch_handler():
            self._batches: Iterator[B] = iter(self._start(self._done))
        self._workers: list[BaseProcess] = list(getattr(self._batches, "_workers", ()))
        # Also at the exit of the interpreter, which would wait for a worker that hangs.
        self._kill = Finalize(self, _kill_all, (self._workers,), exitpriority=0)

    def _ended(self) -> list[BaseProcess]:
        """Return the workers that have ended, or end now."""
        if not self._workers:
            return []
        ready = connection.wait([worker.sentinel for worker in self._workers], _LOOK)
        ended = [worker for worker in self._workers if worker.sentinel in ready]
        for worker in ended:
            worker.join(_LOOK)  # its exit code comes a moment later
        return ended

    def _start_again(self, ended: list[BaseProcess]) -> None:
        """Replace all workers, or raise `UserError` if that was done before."""
        what, remedy = self._describe(ended)
        self._kill()
        if self._restarted:
            raise UserError(f"{what}, for the second time: {remedy}, then start again, a training with --resume.")
        logger.warning(f"{what}: all are started again, once")
        self._restarted = True
        self._open()

    def _describe(self, ended: list[BaseProcess]) -> tuple[str, str]:
        """Return what has happened, and what to do."""
        workers = f"{len(self._workers)} worker(s) that load images for process {comm.get_rank()}"
        if ended:
            how = _describe_exit(ended[0].exitcode)
            what = f"One of the {workers} was ended by {how}"
            if how in _LACKS:
                return f"{what}, probably because {_LACKS[how]}", f"lower {self._setting} from {len(self._workers)}"
            return what, f"see why with {self._setting} 0"
        names = self._files(self._done)
        files = ", ".join(names[:_MOST_FILES]) + (", ..." if len(names) > _MOST_FILES else "")
        late = f"have not sent {files} for {self._patience:.0f} s"
        return f"The {workers} {late}", "see whether the disk or the network of these files answers"


def worker_arguments(num_workers: int, *, pin_memory: bool) -> dict[str, Any]:
    """Return the arguments with which a `DataLoader` can be used in `WorkerBatches`."""
    return {
        "num_workers": num_workers,
        "pin_memory": pin_memory,
        "worker_init_fn": _start_worker,
        "timeout": _LOOK if num_workers else 0,
    }


def _start_worker(number: int) -> None:
    del number
    end_with_parent()
    leave_signals_to_parent()
    # Workers already run in parallel; a thread pool in each of them would compete for the same cores.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _kill_all(workers: list[BaseProcess]) -> None:
    # SIGTERM would not end a worker that is stopped.
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(_LOOK)  # longer only if it waits for a disk or network in the kernel


@contextmanager
def _deadline(seconds: float, workers: list[BaseProcess]) -> Iterator[threading.Event]:
    """Kill the workers if the block takes longer, which ends its waiting with an error, and set the event.

    The timeout of torch does not cover the transfer of a tensor, which waits for the worker that has sent it.
    """
    done, passed = threading.Event(), threading.Event()

    def watch() -> None:
        for _ in range(math.ceil(seconds / _LOOK)):  # a suspended process counts no seconds
            if done.wait(_LOOK):
                return
        passed.set()
        for worker in workers:
            worker.kill()

    if workers:
        threading.Thread(target=watch, name="loader deadline", daemon=True).start()
    try:
        yield passed
    finally:
        done.set()


@contextmanager
def _without_torch_handler() -> Iterator[None]:
    """Undo what torch does with SIGCHLD: when a worker ends, its handler raises in the middle of a training step."""
    child = getattr(signal, "SIGCHLD", None)
    if child is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(child)
    try:
        yield
    finally:
        signal.signal(child, before)
