"""The set-up that every command shares: output folder, log, seed, device, data sets."""

import argparse
import functools
import logging
import platform
import random
import subprocess
from pathlib import Path

import numpy as np
import torch

import clouds
from clouds.config import load_config, resolve_device
from clouds.d2 import CfgNode, comm, setup_logger
from clouds.data.catalog import register_datasets
from clouds.errors import UserError

logger = logging.getLogger(__name__)


def default_setup(cfg: CfgNode, args: argparse.Namespace, config_name: str = "config.yaml") -> None:
    """Make ``cfg`` final and the process ready, in place.

    Creates ``OUTPUT_DIR``, starts the log there and on stdout, draws the seed where ``SEED`` is negative and seeds
    everything, writes the resolved config, registers the data sets, resolves the device and freezes ``cfg``. A run
    that is resumed (``args.resume``) keeps the seed it has on record.

    Args:
        cfg: merged config, not yet frozen.
        args: parsed command line, for the log.
        config_name: file in ``OUTPUT_DIR`` for the resolved config.
    """
    output = Path(cfg.OUTPUT_DIR)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot create the output folder {output} (OUTPUT_DIR): {error.strerror}.") from error
    start_log(str(output))

    record = output / "config.yaml"
    if getattr(args, "resume", False) and (output / "last_checkpoint").is_file() and record.is_file():
        cfg.SEED = load_config(record).SEED
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()
    seed_everything(cfg.SEED)
    if comm.is_main_process():
        # Written before "auto" becomes this machine's device, so that the file serves on another one.
        (output / config_name).write_text(cfg.dump())
    resolve_device(cfg)
    register_datasets(modules=cfg.DATASETS.MODULES)
    cfg.freeze()

    logger.info(f"Command line: {args}")
    logger.info(
        f"clouds {code_version()}, seed {cfg.SEED}, {cfg.MODEL.DEVICE}, {comm.get_world_size()} process(es), "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
    logger.info(f"Resolved config in {output / config_name}")


def start_log(output: str | None) -> None:
    """Send the log to stdout (main process) and to ``<output>/log.txt`` (None: no file), and nowhere else."""
    for name in ("clouds", "detectron2"):
        logging.getLogger(name).handlers = _handlers(name, output, comm.get_rank())


@functools.cache
def _handlers(name: str, output: str | None, rank: int) -> list[logging.Handler]:
    # `setup_logger` adds to the handlers that are there: a second run in this process would write into the log of the
    # first and twice to the console.
    logging.getLogger(name).handlers = []
    handlers = setup_logger(output, rank, name=name).handlers
    for handler in handlers:
        handler.addFilter(_tell_user_errors)
    return handlers


def _tell_user_errors(record: logging.LogRecord) -> bool:
    """The loop logs every exception with its traceback; of one meant for the user only the sentence is of use."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, UserError):
        record.msg, record.args, record.exc_info = f"{record.getMessage()} {error}", (), None
    return True


def seed_everything(seed: int, *stream: int) -> None:
    """Seed Python, NumPy and torch from ``(seed, *stream)``, non-negative integers."""
    state = np.random.SeedSequence(seed, spawn_key=stream).generate_state(2, np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[0] % 2**32))  # noqa: NPY002  (for libraries that use the global state)
    torch.manual_seed(int(state[1] >> 1))


@functools.cache
def code_version() -> str:
    """Commit of the checkout this package runs from, ``+dirty`` with local changes; ``unknown`` outside git."""
    root = Path(clouds.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's repository
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
