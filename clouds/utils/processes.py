"""Cores, processes that end with their parent, and process pools: one function applied to many items."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from threading import Thread
from typing import TypeVar

import cv2
from tqdm import tqdm

from clouds.errors import UserError
from clouds.utils.signals import Stopped, leave_signals_to_parent, signals_delayed, stop_here

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return the number of cores that this process may use, which a job can limit to a part of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this process within a second after its parent process, which even ``kill -9`` may end.

    On Windows, only a process that the module `multiprocessing` has started ends.

    To be called first in every child process. Without it, a child of a killed process works on, or waits forever for
    its next item.
    """
    # A process of the module `multiprocessing` knows its parent, even one that has ended already or started it through
    # a fork server. One that another program has started sees that it is given a new parent.
    parent = multiprocessing.parent_process()
    if parent is None and sys.platform == "win32":  # `os.getppid` stays as it is
        return
    Thread(target=_end_after, args=(parent.join if parent else _join_parent,), daemon=True).start()


def _end_after(join_parent: Callable[[], None]) -> None:
    join_parent()
    os._exit(1)  # `sys.exit` would end this thread only


def _join_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)


def is_running(process: int) -> bool:
    """Return whether a process of this machine with this id exists; always True on Windows, which is not asked."""
    if sys.platform == "win32":  # there, `os.kill` ends the process
        return True
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _start_worker() -> None:
    end_with_parent()
    leave_signals_to_parent()
    cv2.setNumThreads(1)


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int = 1,
    title: str | None = None,
    unit: str = "image",
    chunk_size: int = 8,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the function's result, in order.

    Args:
        function: picklable, for example a function of a module or a `functools.partial` of one.
        items: picklable arguments.
        processes: number of worker processes; with 1, the calling process does the work.
        title: text before the progress bar.
        unit: name of an item in the progress bar.
        chunk_size: number of items sent to a worker at a time.

    Raises:
        UserError: a worker process was killed.
        Stopped: a signal has asked to stop. The items that were begun are finished first.
    """
    with tqdm(total=len(items), unit=unit, desc=title, disable=not items) as bar:
        if processes > 1 and len(items) > 1:
            # Spawned, not forked: threads of OpenCV and torch, and their locks, do not survive a fork.
            with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_start_worker) as pool:
                with signals_delayed():  # `map` starts the workers
                    results = pool.map(function, items, chunksize=chunk_size)
                try:
                    for item, result in zip(items, results, strict=True):
                        stop_here()
                        bar.update()
                        yield item, result
                except Stopped:
                    pool.shutdown(cancel_futures=True)
                    raise
                except BrokenProcessPool as error:
                    raise UserError(
                        "A worker process was killed, perhaps because the memory was full: use fewer processes."
                    ) from error
        else:
            for item in items:
                stop_here()
                result = function(item)
                bar.update()
                yield item, result
