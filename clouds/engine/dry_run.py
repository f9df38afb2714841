"""Dry run: the first step of a training and one image of each test set, and what the whole run would take.

It is the run itself, except that its output folder is a temporary one, with links to the checkpoints and the record
that a resumed run reads.
"""

import argparse
import contextlib
import datetime
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from clouds.d2 import CfgNode, comm
from clouds.engine.measurement import Work, first_steps, measure_sets
from clouds.engine.preflight import (
    Memory,
    Need,
    amount,
    count_evaluations,
    disk_needs,
    enough_memory,
    evaluations_need,
    existing_folder,
    free_space,
    memory_used,
    verdict,
)
from clouds.engine.run.output_folder import PREVIOUS, find_outputs, is_in_use
from clouds.engine.run.record import git_state
from clouds.engine.run.start import check_inputs
from clouds.engine.setup import default_setup, refuse_broken_sets
from clouds.engine.trainer import Trainer
from clouds.errors import UserError
from clouds.evaluation.files import FOLDER
from clouds.utils.atomic import make_folder
from clouds.utils.signals import Stopped

logger = logging.getLogger(__name__)

_LINKED = ("run.json", "config*.yaml", "last_checkpoint", "model_*.pth")


@contextlib.contextmanager
def temporary_places(cfg: CfgNode, *, resume: bool) -> Iterator[tuple[CfgNode, CfgNode]]:
    """Yield a config that writes to a temporary folder, which is removed at the end, and a copy of the real one.

    Args:
        cfg: config that is not frozen yet.
        resume: whether the temporary folder has links to what a resumed run reads.
    """
    real, cfg = cfg.clone(), cfg.clone()
    with tempfile.TemporaryDirectory(prefix="clouds-dry-run-") as name:
        output = Path(name) / "output"
        make_folder(output)
        cfg.OUTPUT_DIR = str(output)
        if real.MODEL.CLOUDS.SAM.CACHE_DIR:
            cfg.MODEL.CLOUDS.SAM.CACHE_DIR = str(Path(name) / "sam_cache")
        for pattern in _LINKED if resume else ():
            for path in Path(real.OUTPUT_DIR).glob(pattern):
                (output / path.name).symlink_to(path.absolute())
        try:
            yield cfg, real
        except Stopped:
            raise Stopped("The dry run was stopped; it has written nothing.") from None


@enough_memory()
def dry_run(cfg: CfgNode, args: argparse.Namespace, trainer: type[Trainer], real: CfgNode) -> None:
    """Do the first step and one image of each test set in this process, then log one table.

    Args:
        cfg: config of `temporary_places`, not frozen yet.
        args: parsed command line, see `clouds.engine.training.train_or_evaluate`.
        trainer: class of the trainer.
        real: config that names the folders of the run.

    Raises:
        UserError: the run cannot start, or cannot end well.
    """
    check_places(real, evaluates=args.eval_only)
    default_setup(cfg, args)
    moved = [] if args.resume or args.eval_only else earlier_run(Path(real.OUTPUT_DIR))
    training = None
    if args.eval_only:
        model, _ = trainer.load_model(cfg, resume=args.resume)
        work = Work(0, 0.0, 1, measure_sets(cfg, trainer, model))
    else:
        check_inputs(cfg, moved)
        if not args.force:
            refuse_broken_sets(cfg, full=args.check_data)
        training, seconds = first_steps(cfg, trainer, resume=args.resume)
        left = max(0, cfg.SOLVER.MAX_ITER - training.start_iter)
        evaluations = count_evaluations(cfg, training.start_iter)
        work = Work(left, seconds, evaluations, measure_sets(cfg, trainer, training.model))
    memory = memory_used(cfg)  # all processes tell theirs
    if not comm.is_main_process():
        return
    needs = label_needs(real, work)
    if args.eval_only:
        needs.append(evaluations_need(real, 1))
    if training is not None:
        done = training.start_iter
        needs += disk_needs(
            real,
            training.checkpointer,
            training.data_loader,
            done=done,
            seconds=work.seconds,
            cache=Path(cfg.MODEL.CLOUDS.SAM.CACHE_DIR),
        )
    names = files_written(real, evaluates=args.eval_only, resumes=args.resume)
    logger.info("Dry run\n" + table(real, work, memory, needs, names, moved))
    failure, *warnings = verdict(needs, memory)
    for warning in warnings:
        logger.warning(warning)
    if failure and not args.force:
        raise UserError(f"{failure}.")
    logger.info("The dry run has ended; it has written nothing")


def check_places(cfg: CfgNode, *, evaluates: bool) -> None:
    """Raise `UserError` if a run cannot write to its folders, or another training uses its output folder."""
    output, sam = Path(cfg.OUTPUT_DIR), cfg.MODEL.CLOUDS.SAM
    places = {"OUTPUT_DIR": output}
    if not evaluates and sam.MINIBATCH and sam.ENABLED and sam.CACHE_DIR:
        places["MODEL.CLOUDS.SAM.CACHE_DIR"] = Path(sam.CACHE_DIR)
    for key, folder in places.items():
        parent = existing_folder(folder)
        inside = folder.absolute().relative_to(parent).parts
        if inside and (parent / inside[0]).exists():
            raise UserError(f"{parent / inside[0]} is a file, so {folder} ({key}) cannot be a folder: set {key} anew.")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"The folder {parent} cannot be written to: change its permissions, or set {key} anew.")
    if not evaluates and is_in_use(output):
        raise UserError(f"Another training is running in {output} (OUTPUT_DIR): wait for its end, or stop it.")


def earlier_run(output: Path) -> list[Path]:
    """Return the files in an output folder that a new training would move."""
    return find_outputs(output) if output.is_dir() else []


def label_needs(cfg: CfgNode, work: Work) -> list[Need]:
    """Return the space for label maps."""
    folder = Path(cfg.OUTPUT_DIR) / "pseudo_labels"
    return [
        Need(folder / name, f"label maps of {name}", each.label_bytes)
        for name, each in work.sets.items()
        if each.label_bytes
    ]


def files_written(cfg: CfgNode, *, evaluates: bool, resumes: bool) -> list[str]:
    """Return the names of the files that a run writes to its output folder, without those that need much space."""
    suffix = "_eval" if evaluates else "_*" if resumes else ""
    names = ["run.json", f"config{suffix}.yaml", "log.txt"]
    if git_state()[1]:
        names.append(f"git{suffix}.diff")
    if evaluates:
        return [*names, "metrics_eval.json", FOLDER]
    names += ["metrics.json", FOLDER, "events.out.tfevents.*", "last_checkpoint"]
    if cfg.DATALOADER.ON_ERROR == "skip":
        names.append("skipped.jsonl")
    return [*names, "wandb"] if cfg.WANDB.PROJECT else names


def table(
    cfg: CfgNode,
    work: Work,
    memory: Memory,
    needs: Sequence[Need],
    names: Sequence[str],
    moved: Sequence[Path],
) -> str:
    """Return the lines that a dry run prints."""
    total = f" of {amount(memory.total)}" if memory.total else ""
    rows = [("memory", f"{amount(memory.used)}{total}", f"{memory.place}, at its peak")]
    if work.iterations:
        rows.append(("time", _clock(work.iterations * work.step_seconds), f"{work.iterations:,} iterations"))
        rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} of {work.step_seconds:.3f} s")
    for name, each in work.sets.items():
        often = (
            f"{work.evaluations} x {each.images:,} images of {name}, {each.seconds / max(each.images, 1):.3f} s each"
        )
        rows.append(("time", _clock(work.evaluations * each.seconds), often))
    rows.append(("time", _clock(work.seconds), "in all, apart from the start and the end"))
    rows += [("disk", amount(need.size), f"{need.folder}: {need.content}") for need in needs]
    folders = dict.fromkeys([Path(cfg.OUTPUT_DIR), *(need.folder for need in needs)])
    disks = {existing_folder(folder).stat().st_dev: folder for folder in reversed(folders)}
    rows += [("free", amount(free_space(folder)), f"on the disk of {folder}") for folder in reversed(disks.values())]
    rows.append(("writes", "", f"{cfg.OUTPUT_DIR}: {', '.join(names)}"))
    if moved:
        rows.append(("moves", f"{len(moved)} files", f"of the earlier run to {moved[0].parent / PREVIOUS}"))
    return "\n".join(f"  {name:<8}{value:>18}  {text}".rstrip() for name, value, text in rows)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
