"""Logging to the console."""

import functools
import logging
import sys

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
def setup_logger(*, distributed_rank: int = 0, name: str = "detectron2") -> logging.Logger:
    """Send the logger `name` to stdout, in rank 0 only, and return it.

    Args:
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
    return logger
