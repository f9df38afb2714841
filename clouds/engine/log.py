"""The log of a process: on stdout, and in a file of the output folder."""

import functools
import logging
import sys
import threading
from logging.handlers import WatchedFileHandler
from pathlib import Path

from clouds.d2 import comm, setup_logger
from clouds.engine.launch import failure_elsewhere
from clouds.errors import UserError, WriteError, machine_error
from clouds.utils.atomic import writing


class LogFile(WatchedFileHandler):
    """Handler that appends to a log file, and starts it anew if it has been moved.

    A training goes on without its log: if a line cannot be written, one warning goes to stderr.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: path of the file, which is continued if it exists.

        Raises:
            WriteError: the file cannot be opened.
        """
        with writing(path):
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.has_failed = False
        style = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"  # as detectron2's
        self.setFormatter(logging.Formatter(style, datefmt="%m/%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line."""
        try:
            super().emit(record)
        except OSError:  # the folder has been removed
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Report the first line that cannot be written."""
        error = sys.exception()
        if not self.has_failed and isinstance(error, OSError):
            sys.stderr.write(f"warning: {WriteError(error.errno, error.strerror, self.baseFilename)}\n")
        self.has_failed = True


def start_log(output: Path | None) -> None:
    """Send the log to stdout, in the main process, and to ``<output>/log.txt``; None for no file.

    Raises:
        WriteError: the file cannot be opened.
    """
    rank = comm.get_rank()
    file = _file_handler(output / (f"log.txt.rank{rank}" if rank else "log.txt")) if output else None
    for name in ("clouds", "detectron2"):
        console = _console_handlers(name, rank)
        for handler in console:
            if isinstance(handler, logging.StreamHandler):
                handler.stream = sys.stdout  # which may have been replaced since the last call
        logging.getLogger(name).handlers = [*console, *([file] if file else [])]
    threading.excepthook = _report_thread


@functools.cache
def _file_handler(path: Path) -> logging.Handler:
    return _telling(LogFile(path))


@functools.cache
def _console_handlers(name: str, rank: int) -> list[logging.Handler]:
    # `setup_logger` adds to existing handlers.
    logging.getLogger(name).handlers = []
    return [_telling(handler) for handler in setup_logger(distributed_rank=rank, name=name).handlers]


def _telling(handler: logging.Handler) -> logging.Handler:
    handler.addFilter(_tell_user_errors)
    return handler


def _tell_user_errors(record: logging.LogRecord) -> bool:
    """Replace the traceback of a `UserError` or a full disk, which the training loop logs, by its message."""
    error = record.exc_info[1] if record.exc_info else None
    # If another process failed first, the error of this process only says that the communication broke off.
    said = failure_elsewhere() if error else None
    if said is None and (known := error if isinstance(error, UserError) else machine_error(error)):
        said = str(known)
    if said is not None:
        record.msg, record.args, record.exc_info = f"{record.getMessage()} {said}", (), None
    return True


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Report an exception that ends a thread, apart from a failure to write in the thread of TensorBoard.

    TensorBoard also raises it in the next call of its writer.
    """
    of_tensorboard = type(failed.thread).__module__.startswith("tensorboard")
    if not (of_tensorboard and isinstance(failed.exc_value, OSError)):
        threading.__excepthook__(failed)
