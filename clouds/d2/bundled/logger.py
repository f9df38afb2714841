"""Logging to the console and to a file."""

import atexit
import functools
import logging
import sys
from pathlib import Path
from typing import IO

from termcolor import colored

_DATE = "%m/%d %H:%M:%S"


class _ColorFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE)

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        if record.levelno >= logging.ERROR:
            return f"{colored('ERROR', 'red', attrs=['bold', 'underline'])} {text}"
        if record.levelno >= logging.WARNING:
            return f"{colored('WARNING', 'red', attrs=['bold'])} {text}"
        return text


@functools.cache  # a second call with the same arguments must not add the handlers again
def setup_logger(output: str | None = None, distributed_rank: int = 0, *, name: str = "detectron2") -> logging.Logger:
    """Send the logger `name` to stdout (rank 0 only) and to a file (one per rank), and return it.

    Args:
        output: folder (the file is its `log.txt`) or file name that ends in .txt or .log; None: no file.
        distributed_rank: rank of this process.
        name: name of the logger.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if distributed_rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(_ColorFormatter())
        logger.addHandler(console)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else str(Path(output) / "log.txt")
        file = logging.StreamHandler(_open_log(path if distributed_rank == 0 else f"{path}.rank{distributed_rank}"))
        file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE))
        logger.addHandler(file)
    return logger


@functools.cache  # several loggers write to one file through one handle
def _open_log(path: str) -> IO[str]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    stream = Path(path).open("a")  # noqa: SIM115 - open until the process ends
    atexit.register(stream.close)
    return stream
