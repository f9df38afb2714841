"""The error handling that all commands share. Imports nothing heavy."""

import functools
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TextIO

from clouds.errors import TransientError, UserError, machine_error, one_line
from clouds.utils.resources import install_command
from clouds.utils.signals import EXIT_CODE, Stopped
from clouds.utils.world import restarts_left

Arguments = ParamSpec("Arguments")

_SIGPIPE = 13  # Windows has no such signal, but broken pipes

# Import names of the packages in requirements.txt.
DEPENDENCIES = frozenset((
    "PIL", "accelerate", "av", "cv2", "diffusers", "filelock", "fvcore", "huggingface_hub", "jinja2", "markupsafe",
    "matplotlib", "numpy", "open_clip", "safetensors", "scipy", "segment_anything", "tensorboard", "termcolor", "timm",
    "torch", "torchvision", "tqdm", "transformers", "yaml",
))  # fmt: skip

# Import names of optional packages, and the extras that install them.
EXTRAS = {
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
    **dict.fromkeys(("gradio", "starlette"), "web"),
    "wandb": "wandb",
}


def user_errors(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorate the main function of a command so that errors meant for its user become one sentence.

    A `UserError`, the absence of a package in `DEPENDENCIES` or `EXTRAS`, or an error of the machine, such as a full
    disk, is written to stderr, and the exit code is 2. A command that a signal has stopped after everything was saved
    exits with 75 (see `Stopped`), one that was interrupted elsewhere with 130, and one whose output nobody reads any
    more, as before ``| head``, with 141, as a shell reports these signals. Any other exception is a defect and keeps
    its traceback.

    Args:
        main: returns the exit code.

    Returns:
        A function of the same arguments.
    """

    @functools.wraps(main)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        _prepare_streams()
        try:
            return main(*args, **kwargs)
        except Stopped as stopped:
            _say(one_line(str(stopped)))
            _end_torchrun()
            return EXIT_CODE
        except KeyboardInterrupt:
            _say("error: interrupted.")
            return 128 + signal.SIGINT
        except BrokenPipeError:
            if not _is_broken(sys.stdout):
                raise  # another pipe, such as that of a process that was killed
            sys.stdout = _nowhere()  # Python writes what is left in the old stream at its end
            return 128 + _SIGPIPE
        except TransientError as error:
            _say(f"error: {error}")
            return 2
        except UserError as error:
            message = str(error)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in DEPENDENCIES:
                message = f"{error}: install CLOUDS and its dependencies with: {install_command()}"
            elif package in EXTRAS:
                message = f"{error}: install it with: {install_command(EXTRAS[package])}"
            else:
                raise
        except (OSError, MemoryError, RuntimeError) as error:
            if (known := machine_error(error)) is None:
                raise
            message = str(known)
        _say(f"error: {one_line(message)}")
        _end_torchrun()
        return 2

    return wrapped


def _end_torchrun() -> None:
    """End torchrun if it would start this command again in vain: it restarts whatever the exit code is."""
    if restarts_left():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to its processes in turn
        os.kill(os.getppid(), signal.SIGTERM)


def _prepare_streams() -> None:
    """Make stdout and stderr usable if they are closed, and take names of files that their encoding cannot express.

    A training goes on if its output cannot be written any more, without a traceback for each line of the log.
    """
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False


def _say(line: str) -> None:
    """Write a line to stderr; if the terminal or the reader is gone, the exit code alone tells the outcome."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, _nowhere())  # Python would fail to write what is left, and exit with 120


def _is_broken(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    if not hasattr(select, "poll"):  # Windows
        try:
            stream.flush()  # what could not be written is still there
        except OSError:
            return True
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except io.UnsupportedOperation:  # no file of the operating system
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _nowhere() -> io.TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")
