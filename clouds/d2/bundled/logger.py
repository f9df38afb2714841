"""Console and file logging."""

import atexit
import functools
import logging
import sys
from pathlib import Path
from typing import IO

from termcolor import colored


class _ColourFormatter(logging.Formatter):
    def __init__(self, root_name: str, abbrev_name: str) -> None:
        stamp = colored("[%(asctime)s %(name)s]: ", "green")
        super().__init__(stamp + "%(message)s", datefmt="%m/%d %H:%M:%S")
        self._root, self._abbrev = root_name, abbrev_name

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.name = record.name.replace(f"{self._root}.", f"{self._abbrev}." if self._abbrev else "")
        text = super().formatMessage(record)
        if record.levelno >= logging.ERROR:
            return f"{colored('ERROR', 'red', attrs=['bold', 'underline'])} {text}"
        if record.levelno >= logging.WARNING:
            return f"{colored('WARNING', 'red', attrs=['bold'])} {text}"
        return text


@functools.cache  # a second call with the same arguments must not add the handlers again
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send the logger `name` to stdout (rank 0 only) and to a file (every rank, each its own).

    `output` is a folder (the file is its `log.txt`) or a file name in .txt or .log; None means no file.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    if configure_stdout and distributed_rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(_ColourFormatter(name, abbrev_name) if color else plain)
        logger.addHandler(console)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else str(Path(output) / "log.txt")
        file = logging.StreamHandler(_open_log(path if distributed_rank == 0 else f"{path}.rank{distributed_rank}"))
        file.setFormatter(plain)
        logger.addHandler(file)
    return logger


@functools.cache  # several loggers write to one file through one handle
def _open_log(path: str) -> IO[str]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    stream = Path(path).open("a")  # noqa: SIM115 - open until the process ends
    atexit.register(stream.close)
    return stream
