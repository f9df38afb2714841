"""Set-up that commands share: config, output folder, log, seed, device, data sets."""

import argparse
import logging
import os
import platform
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch

from clouds.config import load_config
from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode, comm
from clouds.d2.groups import wait_for_all
from clouds.data.datasets.catalog import dataset_names, register_datasets
from clouds.data.datasets.custom import dataset_settings
from clouds.data.preparation.check import find_problem
from clouds.engine.log import start_log
from clouds.engine.run.output_folder import record_lock
from clouds.engine.run.record import Kind, code_version, write_record
from clouds.engine.run.start import decide_start
from clouds.engine.writers import check_wandb
from clouds.errors import UserError, WriteError
from clouds.utils.atomic import make_folder, writing
from clouds.utils.devices import is_usable, set_float32_precision, use_deterministic_algorithms
from clouds.utils.memory import keep_freed_memory, limit_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare this process for a run, and complete and freeze ``cfg``, in place.

    Registers the data sets, creates ``OUTPUT_DIR``, decides which run this start belongs to
    (`clouds.engine.run.start`), starts the log there and on stdout, draws a seed if ``SEED`` is negative, seeds all
    random generators, writes the record of this start (`clouds.engine.run.record`), resolves the device and sets up
    the libraries (`set_up_libraries`). A resumed run (``args.resume``) keeps its recorded seed. A training holds the
    lock of ``OUTPUT_DIR`` from here on, see `clouds.engine.run.output_folder.hold`.

    Args:
        cfg: merged config, not frozen yet.
        args: parsed command line; ``resume``, ``resume_anyway`` and ``eval_only`` default to False.

    Raises:
        UserError: the output folder is that of a training that runs, the run to resume has other settings, or the
            device or a data set does not exist.
        WriteError: the output folder cannot be written.
    """
    evaluates = getattr(args, "eval_only", False)
    if not evaluates:
        check_wandb(cfg)
    # Before the files of an earlier run are moved aside.
    resolve_device(cfg.clone())
    register_datasets(modules=cfg.DATASETS.MODULES, custom=cfg.DATASETS.CUSTOM)
    output = Path(cfg.OUTPUT_DIR)
    make_folder(output)
    start = _decided_by_main_process(
        lambda: decide_start(
            output,
            cfg,
            evaluates=evaluates,
            resumes=getattr(args, "resume", False),
            anyway=getattr(args, "resume_anyway", False),
        ),
        output,
    )
    if start.kind is Kind.RESUMED:
        args.resume = True  # torchrun may have restarted a training without the flag
    start_log(output)
    for note in start.notes:
        logger.info(note)

    cfg.merge_from_list([word for pair in start.settings.items() for word in pair])
    cfg.SEED = comm.all_gather(cfg.SEED)[0]
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()
    seed_everything(cfg.SEED)
    if comm.is_main_process():
        with record_lock(output):
            entry = write_record(output, cfg, args, start.kind, start.run, start.moved)
        logger.info(f"Resolved config in {output / entry['config']}, the whole record in {output / 'run.json'}")
    comm.synchronize()  # other processes may read the record from here on
    resolve_device(cfg)
    set_up_libraries(cfg)
    cfg.freeze()

    logger.info(f"Command line: {args}")
    logger.info(
        f"clouds {code_version()}, seed {cfg.SEED}, {cfg.MODEL.DEVICE}, {comm.get_world_size()} process(es), "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _decided_by_main_process(decide: Callable[[], T], output: Path) -> T:
    """Return the result of `decide()` in the main process, in all processes; all raise its error."""
    decision: T | UserError | WriteError | None = None
    if comm.is_main_process():
        try:
            with writing(output):
                decision = decide()
        except (UserError, WriteError) as error:
            decision = error
    decision = comm.all_gather(decision)[0]
    if isinstance(decision, UserError | WriteError):
        raise decision
    return cast(T, decision)


def config_with_dataset(
    cfg: CfgNode, config_file: str | Path, opts: Sequence[str], dataset: str | Path | None
) -> CfgNode:
    """Return the config of a command that takes ``--dataset``.

    Args:
        cfg: config that was read from `config_file` and `opts`.
        config_file: YAML config.
        opts: alternating keys and values that replace those of `config_file` and `dataset`.
        dataset: YAML file that describes a data set to train and test on; None returns `cfg`.

    Returns:
        A config that is not frozen.

    Raises:
        UserError: see `clouds.config.load_config` and `clouds.data.datasets.custom.dataset_settings`.
    """
    if not dataset:
        return cfg
    return load_config(config_file, [*dataset_settings(Path(dataset)), *opts])


def resolve_device(cfg: CfgNode) -> None:
    """Replace the value "auto" of ``MODEL.DEVICE`` by "cuda" or "cpu", in place.

    Raises:
        UserError: torch does not know the device or does not find it.
    """
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        return
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which torch does not know: use auto or cpu.") from error
    if not is_usable(device):
        wanted = "GPU" if device.type == "cuda" else "device"
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but torch finds no such {wanted}: use auto or cpu.")


def set_up_libraries(cfg: CfgNode) -> None:
    """Set up the libraries of this process for a config with a resolved device, and log it.

    Sets the precision of float32 products, ``FLOAT32_PRECISION``. On a CPU, glibc keeps freed memory, and no more
    memory can be allocated than the machine has. On a GPU, ``DETERMINISTIC`` chooses deterministic algorithms.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cpu":
        limit_memory()
    kept = device.type == "cpu" and keep_freed_memory()
    precision = set_float32_precision(cfg.FLOAT32_PRECISION, device)
    if cfg.DETERMINISTIC and device.type != "cpu":
        use_deterministic_algorithms()
    logger.info(
        f"Precision of float32 products and convolutions on {device}: {precision}"
        f"{'; freed memory is kept for reuse' if kept else ''}"
    )


def refuse_broken_sets(cfg: CfgNode, *, full: bool = False) -> None:
    """Check the data sets of a config before a training; all processes call it together.

    The main process checks. By default it lists the files of each data set: names, pairs and counts. An earlier full
    check counts if its result still holds, see `clouds.data.preparation.check`.

    Args:
        cfg: config.
        full: decode every image and label map.

    Raises:
        UserError: a data set is damaged or incomplete.
    """
    names = [*dataset_names(cfg.DATASETS.TRAIN), *evaluated_sets(cfg)]
    problem = _on_main_process(
        lambda: find_problem(names, cfg.DATASETS.CUSTOM, cfg.DATASETS.MODULES, full=full, processes=os.cpu_count() or 1)
    )
    if problem:
        raise UserError(f"{problem}, or train all the same with --force.")


def _on_main_process(work: Callable[[], T]) -> T:
    """Return the result of `work()` in the main process, in all processes; it may take long."""
    own = work() if comm.is_main_process() else None
    wait_for_all()
    return cast(T, comm.all_gather(own)[0])


def seed_everything(seed: int, *stream: int) -> None:
    """Seed Python, NumPy and torch.

    Args:
        seed: non-negative integer.
        stream: further non-negative integers; different ones give independent random numbers.
    """
    state = np.random.SeedSequence(seed, spawn_key=stream).generate_state(2, np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[0] % 2**32))  # noqa: NPY002  (for libraries that use the global state)
    torch.manual_seed(int(state[1] >> 1))
