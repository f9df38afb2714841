"""Signals that ask a long command to stop: it finishes its step, saves, and exits with the code `EXIT_CODE`.

A command enters `stop_on_signals` around its long work. The loops of the library ask `stop_requested` between two
items and raise `Stopped` once everything is saved. Outside a command nothing changes: nobody has asked to stop, and
Ctrl-C raises `KeyboardInterrupt`.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import resource_tracker

EXIT_CODE = 75
"""Exit code of a command that was stopped and has saved everything; EX_TEMPFAIL of sysexits.h."""

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_SAME = 1.0  # seconds in which signals count as one: a launcher passes on what a terminal sends to all processes anyway

_END = b"\0"  # no signal has this number
_GRACE = 30.0  # seconds that a worker lives on after SIGTERM

_requested: str | None = None
_active = False
_passing_on = False


class Stopped(BaseException):
    """A signal has asked to stop, and everything is saved. The message is one sentence: what is saved, how to go on.

    Like `KeyboardInterrupt`, it is no `Exception`: it is not an error to be handled or logged on its way.
    """


def stop_requested() -> str | None:
    """Return the name of the signal that has asked this process to stop, such as "SIGTERM"; None if none has."""
    return _requested


def stop_here(then: str = "what is written stays, and the same command goes on") -> None:
    """Raise `Stopped` if a signal has asked this process to stop. A loop calls it between two items.

    Args:
        then: end of the sentence, which says what is saved and how to go on.
    """
    if _requested is not None:
        raise Stopped(f"Stopped by {_requested}: {then}.")


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask to stop, those of them that this platform has."""
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


@contextmanager
def stop_on_signals(*, for_parent: bool = False) -> Iterator[None]:
    """Let SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask the loops to stop, see `stop_requested`.

    The first signal prints one line. A later one ends the process at once, with the exit code that a shell reports for
    it, even if the main thread waits in a library. A signal that was ignored before, as by ``nohup``, stays ignored.
    Processes that are forked in this context are workers, see `leave_signals_to_parent`.

    Within another such context, and outside the main thread, this does nothing.

    Args:
        for_parent: this process is one of several with a parent that handles the signals. It stays silent, and further
            signals do not end it, because a terminal sends them to all processes and the parent passes them on, too.
    """
    global _requested, _active
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    _ignored_in_forks()
    ours, waking = socket.socketpair()
    waking.setblocking(False)
    handled = [number for number in stop_signals() if signal.getsignal(number) is not signal.SIG_IGN]
    # A thread reads the signals, because the main thread may wait in a library, where Python calls no handler.
    fd_before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    before = [signal.signal(number, lambda *_: None) for number in handled]
    _active = True
    watcher = threading.Thread(target=_watch, args=(ours, for_parent), name="signals", daemon=True)
    watcher.start()
    _deliver_signals()
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        waking.send(_END)  # closing it is not enough: forked workers have it, too
        watcher.join()
        waking.close()
        ours.close()
        _active, _requested = False, None


@contextmanager
def signals_passed_on() -> Iterator[None]:
    """Pass the first signal on to the child processes that `multiprocessing` has started, which stop by themselves.

    Enter it once they are started: they also get a signal that came before.
    """
    global _passing_on
    _passing_on = True
    if _requested is not None:
        _pass_on(signal.Signals[_requested])
    try:
        yield
    finally:
        _passing_on = False


@contextmanager
def signals_delayed() -> Iterator[None]:
    """Delay the signals that ask to stop in this context, in which child processes are started.

    A child would end with a traceback, or without a word, while it imports modules. They reach it when it enters
    `stop_on_signals` or calls `leave_signals_to_parent`.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    resource_tracker.ensure_running()  # the first child of `multiprocessing`, whose start ends the delay of some
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent() -> None:
    """Ignore the signals that ask to stop; call it first thing in a worker process, whose parent finishes its step.

    SIGTERM ends the worker after `_GRACE` seconds, because the parent ends one that hangs with it.
    """
    for number in stop_signals():
        signal.signal(number, _end_later if number == signal.SIGTERM else signal.SIG_IGN)
    _deliver_signals()


def _deliver_signals() -> None:
    """End the delay of signals that this process has inherited, see `signals_delayed`."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())


def _end_later(number: int, _: object) -> None:
    timer = threading.Timer(_GRACE, os._exit, (128 + number,))
    timer.daemon = True
    timer.start()


def _watch(source: socket.socket, for_parent: bool) -> None:
    """Handle the signals, whose numbers arrive as bytes."""
    global _requested
    first = 0.0
    while (received := source.recv(1)) != _END:
        number = received[0]
        if number not in stop_signals():  # another handler's, such as SIGCHLD
            continue
        if _requested is None:
            _requested, first = signal.Signals(number).name, time.monotonic()
            if not for_parent:
                _say(f"{_requested}: the command finishes its step, saves and stops; a second signal ends it at once.")
            if _passing_on:
                _pass_on(number)
        elif not for_parent and time.monotonic() - first > _SAME:
            os._exit(128 + number)


def _pass_on(number: int) -> None:
    for child in multiprocessing.active_children():
        if child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # the terminal may be gone
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


@cache
def _ignored_in_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """A forked worker shares the socket of its parent, who would take the worker's signals for its own."""
    global _requested, _active
    if _active:
        signal.set_wakeup_fd(-1)
        leave_signals_to_parent()
        _active, _requested = False, None
