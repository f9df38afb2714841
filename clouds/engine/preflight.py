"""Check whether a training can end well: the disk space that it needs, and the memory that it uses.

A dry run (`clouds.engine.dry_run`) checks before a training, and `Preflight` in its first iteration.
"""

import contextlib
import logging
import math
import platform
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from clouds.config.classes import class_names
from clouds.config.settings import evaluated_sets
from clouds.d2 import CfgNode, HookBase, comm
from clouds.data.datasets.catalog import load_dataset
from clouds.data.datasets.record import is_generated
from clouds.data.protocols import protocol_names
from clouds.engine.checkpointing.build import checkpoint_period
from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.files import numbered
from clouds.engine.checkpointing.weights import frozen_keys
from clouds.engine.hooks.writing import SMOOTHED
from clouds.errors import UserError, is_out_of_memory, machine_error
from clouds.utils.memory import machine_memory, resident_size

logger = logging.getLogger(__name__)

# Bytes, estimated: the scalars of an iteration in metrics.json, TensorBoard and log.txt; a panel of pseudo-labels; the
# largest embedding, that of SAM 3, where none has been written yet.
_ROW, _PANEL, _EMBEDDING = 8_000, 1_500_000, 10_700_000
# Bytes for an image in the files of an evaluation: for its names, for each class, and if its prediction is shown.
_PATHS, _CLASS, _SHOWN = 200, 30, 400_000
_NEARLY = 0.95  # share of a memory above which an evaluation, or another batch, may find none


@dataclass(frozen=True)
class Need:
    """Files that a run writes.

    Attributes:
        folder: folder of the files.
        content: description of the files.
        size: bytes that they probably take, at most.
        certain: bytes without which the run cannot end.
    """

    folder: Path
    content: str
    size: float
    certain: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Memory that has been used at most.

    Attributes:
        place: description of the memory.
        used: bytes.
        total: bytes that there are; None if unknown.
    """

    place: str
    used: int
    total: int | None

    @property
    def is_scarce(self) -> bool:
        """Whether hardly any is left."""
        return self.total is not None and self.used > _NEARLY * self.total


class Preflight(HookBase):
    """Stops a training in its first iteration if it cannot end well, and warns if it is unlikely to.

    It must precede the hook that saves checkpoints.

    Attributes:
        forced: whether to go on all the same.
    """

    forced = False

    def after_step(self) -> None:
        trainer = self.trainer
        if trainer.iter != trainer.start_iter:
            return
        memory = memory_used(trainer.cfg)  # all processes tell theirs
        failure = ""
        if comm.is_main_process():
            needs = disk_needs(trainer.cfg, trainer.checkpointer, trainer.data_loader, done=trainer.iter)
            failure, *warnings = verdict(needs, memory)
            for warning in warnings:
                logger.warning(warning)
        failure = comm.all_gather(failure)[0]
        if failure and not self.forced:
            raise UserError(f"{failure}, or train all the same with --force.")
        if failure:
            logger.warning(f"{failure}. The training goes on because of --force")


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Report a lack of memory in a training or an evaluation with the config keys that it depends on."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        keys = (
            "lower SOLVER.IMS_PER_BATCH or INPUT.CROP_SIZE, or raise SOLVER.ACCUMULATION; in an evaluation, lower "
            "INPUT.TEST_SHORT_EDGE or set TEST.WINDOW to fewer pixels"
        )
        raise cast(UserError, machine_error(error, less_memory=keys)) from error


def verdict(needs: Sequence[Need], memory: Memory) -> tuple[str, ...]:
    """Return why a run cannot end well, "" if it can, followed by warnings; all without a period at the end."""
    failure, warnings = "", []
    of_disk: dict[int, list[Need]] = defaultdict(list)
    for need in needs:
        of_disk[existing_folder(need.folder).stat().st_dev].append(need)
    for group in of_disk.values():
        largest = max(group, key=lambda need: (need.certain, need.size))
        free = free_space(largest.folder)
        certain, size = sum(need.certain for need in group), sum(need.size for need in group)
        said = f"The disk of {largest.folder} has {amount(free)} free, and the run"
        if certain > free:
            failure = failure or (
                f"{said} needs at least {amount(certain)} there ({largest.content}): make room, or set OUTPUT_DIR to "
                "another disk or SOLVER.CHECKPOINTS_KEPT lower"
            )
        elif size > free:
            warnings.append(f"{said} may need up to {amount(size)} there ({', '.join(each.content for each in group)})")
    if memory.is_scarce:
        warnings.append(
            f"{memory.place}: {amount(memory.used)} of {amount(memory.total or 0)} are used; an evaluation or another "
            "batch may find too little, so consider lowering SOLVER.IMS_PER_BATCH, INPUT.CROP_SIZE or "
            "INPUT.TEST_SHORT_EDGE, or raising SOLVER.ACCUMULATION"
        )
    return failure, *warnings


def disk_needs(
    cfg: CfgNode,
    checkpointer: Checkpointer,
    loader: Any,
    *,
    done: int,
    seconds: float = 0.0,
    cache: Path | None = None,
) -> list[Need]:
    """Return what a training still writes, label maps aside, after its first step has made the optimizer's state.

    Args:
        cfg: config of the training.
        checkpointer: its checkpointer, in whose folder are those that are replaced.
        loader: its `TrainLoader`, whose generated images SAM encodes.
        done: number of iterations so far.
        seconds: time that the training still takes; 0 = unknown.
        cache: folder to which this process has written embeddings of SAM; default: the one in `cfg`.
    """
    output = Path(cfg.OUTPUT_DIR)
    left = cfg.SOLVER.MAX_ITER - done
    panels = left // cfg.MODEL.CLOUDS.PANEL_PERIOD if cfg.MODEL.CLOUDS.PANEL_PERIOD else 0
    logs = Need(output, "logs", _ROW * (left // SMOOTHED + 10) + _PANEL * panels)
    evaluations = evaluations_need(cfg, count_evaluations(cfg, done))
    return [checkpoint_need(cfg, checkpointer, done, seconds), logs, evaluations, *cache_need(cfg, loader, cache)]


def checkpoint_need(cfg: CfgNode, checkpointer: Checkpointer, done: int, seconds: float) -> Need:
    """Return the space for the checkpoints, besides those that are there; see `disk_needs` for the arguments."""
    size, weights = checkpoint_sizes(checkpointer)
    keep, period, minutes = cfg.SOLVER.CHECKPOINTS_KEPT, checkpoint_period(cfg), cfg.SOLVER.CHECKPOINT_MINUTES
    last = cfg.SOLVER.MAX_ITER - 1  # saved as model_final
    fewest = multiples(period, done, last)
    most = fewest + (0 if not minutes else int(seconds / 60 / minutes) if seconds else keep)
    if keep:  # a checkpoint is complete before it makes another one outdated, the final one at last
        here = len(numbered(Path(checkpointer.save_dir), up_to=""))
        fewest, most = (max(0, min(here + count, kept) - here) for count, kept in ((fewest, keep), (most, 2 * keep)))
    others, content = size, f"checkpoints: {f'up to {most} and ' if most else ''}the final one, {amount(size)} each"
    for kind, written in (("best", cfg.TEST.SELECT_ON), ("averaged", cfg.SOLVER.EMA_DECAY)):
        if written:
            others, content = others + weights, f"{content}; the {kind} weights, {amount(weights)}"
    return Need(Path(cfg.OUTPUT_DIR), content, most * size + others, fewest * size + others)


def evaluations_need(cfg: CfgNode, evaluations: int) -> Need:
    """Return the space for the files of a number of evaluations, see `clouds.evaluation.files`."""
    sets = evaluated_sets(cfg)
    size = sum(len(load_dataset(name)) * (_PATHS + _CLASS * len(class_names((name,)))) for name in sets)
    shown = len(sets) * cfg.TEST.SHOWN_IMAGES * _SHOWN
    size = evaluations * (len(protocol_names(cfg)) * size + shown)
    return Need(Path(cfg.OUTPUT_DIR), "files of the evaluations", size)


def count_evaluations(cfg: CfgNode, done: int) -> int:
    """Return the number of evaluations of a training after its first `done` iterations."""
    period: int = cfg.TEST.EVAL_PERIOD
    return 1 + multiples(period, done, cfg.SOLVER.MAX_ITER - 1) + (period > 0 and done == 0)


def cache_need(cfg: CfgNode, loader: Any, measured: Path | None) -> list[Need]:
    """Return the space that the cache of SAM's embeddings still takes; none without a cache. See `disk_needs`."""
    sam = cfg.MODEL.CLOUDS.SAM
    if not (sam.MINIBATCH and sam.ENABLED and sam.CACHE_DIR):
        return []
    folder = Path(sam.CACHE_DIR)
    entries = _sizes_of_embeddings(folder)
    examples = (_sizes_of_embeddings(measured) if measured else []) or entries or [_EMBEDDING]
    size = sum(examples) / len(examples)
    images = sum(map(is_generated, loader.records)) * (2 if cfg.INPUT.FLIP else 1)
    wanted = min(images * size, sam.CACHE_SIZE * 1e9)
    return [Need(folder, "embeddings of SAM", max(0.0, wanted - sum(entries)))]


def multiples(period: int, done: int, last: int) -> int:
    """Return how many multiples of a period are larger than `done` and at most `last`; none for the period 0."""
    return max(0, last // period - done // period) if period else 0


def checkpoint_sizes(checkpointer: Checkpointer) -> tuple[int, int]:
    """Return the size in bytes of a checkpoint of the current state, and of one with the weights alone."""
    model = checkpointer.model.state_dict()
    frozen = set() if checkpointer.save_frozen else frozen_keys(checkpointer.model)
    weights = _bytes_of({key: value for key, value in model.items() if key not in frozen})
    states = [part.state_dict() for part in checkpointer.checkpointables.values()]
    return weights + _bytes_of(states), weights


def memory_used(cfg: CfgNode) -> Memory:
    """Return the peak of the memory that decides: of the fullest GPU, or of all processes on the main one's machine.

    All processes call it together.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda":
        used = torch.cuda.max_memory_reserved(device)
        total = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return max(comm.all_gather(Memory("memory of the fullest GPU", used, total)), key=_share)
    host = platform.node()
    peaks = [peak for name, peak in comm.all_gather((host, resident_size(peak=True) or 0)) if name == host]
    place = f"memory of {len(peaks)} processes" if len(peaks) > 1 else "memory of the process"
    return Memory(place, sum(peaks), machine_memory())


def existing_folder(path: Path) -> Path:
    """Return the nearest folder of a path that exists: itself, or one that it will be made in."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def free_space(path: Path) -> int:
    """Return the bytes that a user can still write to the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing_folder(path)).free


def amount(size: float) -> str:
    """Return a number of bytes as a text with a unit, such as "1.2 GB"."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def _sizes_of_embeddings(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.sam")]


def _bytes_of(tree: Any) -> int:
    """Return the bytes of all tensors in nested containers."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, Mapping):
        return sum(map(_bytes_of, tree.values()))
    return sum(map(_bytes_of, tree)) if isinstance(tree, list | tuple) else 0


def _share(memory: Memory) -> float:
    return memory.used / (memory.total or math.inf)
