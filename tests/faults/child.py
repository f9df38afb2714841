"""Child process of a fault test, as it runs after the fork; the template process imports this module and its imports.

Everything that the commands need is imported here, so that a child has nothing left to import.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kornia_rs.io
import torch.utils.tensorboard
from diffusers.pipelines import auto_pipeline
from PIL import JpegImagePlugin

from clouds.api import files
from clouds.commands import convert_datasets, generate, make_submission, predict, prepare_datasets, train
from clouds.data.preparation import converters, prepare
from clouds.engine import submission, training
from clouds.generation import painting, statistics
from tests.engine import joint

IMPORTED = (
    *(convert_datasets, generate, make_submission, predict, prepare_datasets, train),
    *(converters, prepare, files, submission, training, painting, statistics, joint),
    *(kornia_rs.io, torch.utils.tensorboard, auto_pipeline, JpegImagePlugin),
)
"""Commands, and what they import when they run."""

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""Audit events that change a folder, besides the opening of a file to be written. The first argument is a path."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Event:
    """Moment before a change of files: a file is opened to be written, renamed, removed, or a folder is made.

    Only changes that Python makes in the main process count, in all of its threads.

    Attributes:
        number: number of the change, 1 for the first.
        folder: only changes in this folder and its sub-folders count.
    """

    number: int
    folder: Path


class Death:
    """Audit hook that counts changes of files and sends a signal to its own process before one of them.

    Args:
        event: moment of the signal; with number 0 the changes are only counted.
        number: number of the signal.
    """

    def __init__(self, event: Event, number: int) -> None:
        self.event, self.number, self.count = event, number, 0
        self.folder = os.fsencode(event.folder)

    def __call__(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "open":
            if not isinstance(args[2], int) or not args[2] & WRITING:
                return
        elif name not in CHANGES:
            return
        if isinstance(args[0], str | bytes | os.PathLike) and os.fsencode(args[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.event.number:
                os.kill(os.getpid(), self.number)


def run(
    main: Callable[..., int | None],
    argv: Sequence[Any],
    log: Path,
    environment: Mapping[str, str],
    event: Event,
    number: int,
) -> None:
    """Call `main(argv)` as a new process would, in a session of its own, and exit with its result.

    Args:
        main: main function of a command.
        argv: its argument.
        log: file for stdout and stderr. ``<log>.changes`` gets the number of changes of files at the end.
        environment: environment variables to set. The folders of ``PYTHONPATH`` come first in `sys.path`.
        event: moment at which the process sends itself the signal `number`.
        number: number of a signal.
    """
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # a new process has the default, not that of the template
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)  # the fork server has set its own
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = [main.__module__, *map(str, argv)]
    death = Death(event, number)
    sys.addaudithook(death)
    try:
        sys.exit(main(list(argv)))
    finally:
        log.with_name(f"{log.name}.changes").write_text(str(death.count))
