"""The other processes of a run: the first failure of one is reported once, and ends all.

A process that has failed or was killed leaves the others waiting in a collective, on a GPU for as long as its timeout.
So a thread in each process looks at the others. A failure is told in the store that all processes share; the death of
a process, which cannot tell anything any more, is seen by the others on its machine.
"""

import os
import threading
from collections.abc import Callable
from typing import NoReturn

from torch import distributed

from clouds.utils.processes import is_running

_FAILURE = "failure"
_POLL = 0.5  # seconds between two looks at the others
_SETTLING = 3.0  # seconds in which the cause of an error becomes known that is only its effect
_GRACE = 5.0  # seconds in which the process that failed first reports it and exits


def killed(rank: int, process: int | None) -> str:
    """Return the failure of a process that has ended without telling it.

    Args:
        rank: rank of the process.
        process: its id in the operating system.
    """
    return (
        f"Process {rank} of the run (id {process}) was killed, perhaps because the memory was full, and the other "
        "processes have been ended: repeat the command with --resume."
    )


class Peers:
    """Looks at the other processes of a run from a thread.

    Args:
        store: shared by all processes; used by this object alone.
        rank: rank of this process.
        local_rank: rank among the processes on this machine.
        here: number of processes on this machine.
        end: called in the thread with the first failure if another process has failed or died; ends this process. The
            flag says whether this process is the one that reports it.
    """

    def __init__(
        self, store: distributed.Store, rank: int, local_rank: int, here: int, end: Callable[[str, bool], NoReturn]
    ) -> None:
        self._store = store
        self._rank = rank
        self._end = end
        self._has_failed = threading.Event()
        self._has_left = threading.Event()
        self._failure: str | None = None
        store.set(f"process {rank}", str(os.getpid()))
        first = rank - local_rank
        ranks = [other for other in range(first, first + here) if other != rank]
        self._others = {other: int(store.get(f"process {other}")) for other in ranks}
        threading.Thread(target=self._look, daemon=True).start()

    def failure(self) -> str | None:
        """Return the failure of another process that may have caused an error here; None if there is none."""
        self._has_failed.wait(_SETTLING)
        return self._failure

    def report(self, failure: str) -> bool:
        """Report the failure of this process. Return False if another process was first: `end` is called soon."""
        try:
            first, _ = self._report(failure)
        except RuntimeError:  # the server of the store has ended, as the thread finds out, too
            return False
        if first:
            self._has_left.set()
        return first

    def leave(self) -> None:
        """Say that this process ends as it should. All processes call this after they have waited for each other."""
        self._has_left.set()
        self._store.set(f"left {self._rank}", "")

    def _report(self, failure: str) -> tuple[bool, str]:
        own = f"{self._rank}\n{failure}"
        known = self._store.compare_set(_FAILURE, "", own).decode()
        return known == own, known.partition("\n")[2]

    def _look(self) -> None:
        while not self._has_left.wait(_POLL):
            try:
                first, self._failure = self._first_failure()
            except RuntimeError:  # its server has ended
                first, self._failure = False, "The process that connects the others has ended."
            if self._failure is not None:
                self._has_failed.set()
                if not self._has_left.wait(0 if first else _GRACE):
                    self._end(self._failure, first)

    def _first_failure(self) -> tuple[bool, str | None]:
        """Return whether this process has reported the first failure, and the failure if there is one."""
        if self._store.check([_FAILURE]):
            return False, self._store.get(_FAILURE).decode().partition("\n")[2]
        for rank, process in self._others.items():
            if not is_running(process) and not self._store.check([f"left {rank}"]):
                return self._report(killed(rank, process))
        return False, None
