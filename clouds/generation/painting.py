"""Generation of one process's share of a set, and repetition of the images of a manifest."""

import dataclasses
import datetime
import logging
import socket
import time
from pathlib import Path
from typing import Any

from clouds.errors import UserError
from clouds.generation.dataset import GeneratedSet
from clouds.generation.device import resolve_device, resolve_dtype
from clouds.generation.gate import Gate
from clouds.generation.painter import Painter
from clouds.generation.plan import MAX_IMAGES, blocks, parse_indices
from clouds.generation.prompts import find_prompts, read_prompts
from clouds.generation.records import check_belongs, read_description, read_manifest
from clouds.generation.run import Run, choose, repaint
from clouds.generation.settings import Execution, GateSettings, PaintingSettings
from clouds.generation.shares import Coverage, coverage
from clouds.generation.similarity import ClipSimilarity
from clouds.utils.memory import keep_freed_memory
from clouds.utils.processes import end_with_parent
from clouds.utils.signals import Stopped
from clouds.utils.world import World, world_from

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a process without work waits for the other processes of its launcher to begin."""


def paint_set(
    folder: Path,
    painting: PaintingSettings,
    *,
    prompts: str,
    num_images: int,
    part: int = 0,
    seed: int = 0,
    gate: GateSettings | None = None,
    execution: Execution,
) -> Coverage:
    """Generate this process's share of a part of a set. Images that exist already are kept.

    The part is divided among the processes that a launcher has started, see `clouds.utils.world`.

    Args:
        folder: folder of the set.
        painting: text-to-image model and its settings.
        prompts: path of the prompt file, with or without ``.txt``.
        num_images: number of images of the part.
        part: number of the part, from 0; it has the images ``part * num_images`` to ``(part + 1) * num_images - 1``.
        seed: seed of the set.
        gate: settings of the quality gate; None for no gate.
        execution: device and batches.

    Returns:
        The images of the part that exist now.

    Raises:
        UserError: a file cannot be read or written, a model cannot be loaded, the folder holds another set, or another
            process is at work on the same share.
        Stopped: a signal has asked to stop; the manifest is written first, as it is before a `KeyboardInterrupt`.
    """
    if (part + 1) * num_images > MAX_IMAGES:
        raise UserError(f"--num-images or --part is too large: a set has at most {MAX_IMAGES:,} images.")
    texts = read_prompts(find_prompts(prompts))
    world = world_from()
    if world.size > 1:
        end_with_parent()
    images = GeneratedSet(folder)
    images.make_folder()
    name = f"part_{part}_of_{num_images}"
    images.begin_share(name, world)
    try:
        painter = load_painter(painting, execution, world.local_rank)
        judge = _begin(images, painter, texts, seed, gate)
        run = Run(
            target=images,
            paint=painter,
            prompts=texts,
            seed=seed,
            blocks=blocks(part, num_images, execution.batch_size, world),
            part=blocks(part, num_images, execution.batch_size, World()),
            gate=judge,
            attempts=(gate or GateSettings()).attempts,
            duplicate_distance=gate.duplicate_distance if gate is not None else None,
            rank=world.rank,
        )
        started = time.time()
        stopped: Stopped | KeyboardInterrupt | None = None
        try:
            run()
        except (Stopped, KeyboardInterrupt) as raised:
            stopped = raised
        entry = _entry(painter, started, run.written, part=part, num_images=num_images, world=world)
        wanted = range(part * num_images, (part + 1) * num_images)
        with images.lock():
            rows = images.finish_locked(entry)
            found = coverage(wanted, [row["index"] for row in rows], run.given_up(), images.shares.others(name))
            images.shares.release()  # under the same lock, so that of two processes that end, the second is the last
    finally:
        images.end_share()
    _log_speed(images, entry, len(rows))
    if stopped is not None:
        raise stopped
    if found.missing and not found.others and world.size > 1 and _others_appear(images, name):
        found = dataclasses.replace(found, others=True)
    return found


def _begin(
    images: GeneratedSet, painter: Painter, prompts: list[str], seed: int, gate: GateSettings | None
) -> Gate | None:
    """Begin or continue the set, and load the gate."""
    for index, text in painter.truncated_prompts(prompts).items():
        logger.warning(f"Prompt {index} is too long for the model, which does not read its end: {text!r}")
    judge = load_gate(gate, painter.device) if gate is not None else None
    images.begin(
        {
            **dataclasses.asdict(painter.settings),
            "fingerprint": painter.model_id(),
            "seed": seed,
            "gate": dataclasses.asdict(gate) if gate is not None else None,
        },
        prompts,
        painter.licence(),
    )
    return judge


def _others_appear(images: GeneratedSet, part: str) -> bool:
    """Wait for processes of the same launcher that have not begun yet; return whether there is one."""
    logger.info(f"Images are missing: waiting up to {PATIENCE:g} s for the other processes to begin.")
    end = time.monotonic() + PATIENCE
    while not (found := images.has_others(part)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def repaint_set(
    folder: Path, source: Path, *, images: str | None = None, model: str | None = None, execution: Execution
) -> None:
    """Generate the images of a manifest again, in a new set, and report which of them differ.

    Args:
        folder: folder of the new set.
        source: the manifest, or the folder of its set.
        images: indices of the images, such as "3,17,40-60"; None for all.
        model: hub name or local folder of the pipeline; None for the recorded one.
        execution: device and batches; without ``compile`` the batches are those of the manifest.

    Raises:
        UserError: a file cannot be read or written, the model cannot be loaded, or the folder holds another set.
    """
    if world_from().size > 1:
        raise UserError("--from-manifest works in one process: start it without torchrun, mpirun or srun.")
    manifest = source / "manifest.jsonl" if source.is_dir() else source
    if not manifest.is_file():
        raise UserError(
            f"There is no manifest {manifest} (--from-manifest); name a set's folder or its manifest.jsonl."
        )
    if manifest.parent.resolve() == folder.resolve():
        raise UserError(f"--from-manifest names {folder} itself; give another --folder.")
    description = read_description(manifest.parent / "dataset.json")
    settings: dict[str, Any] = description["settings"]
    rows = read_manifest(manifest)
    check_belongs(manifest, rows, description["prompts"], settings["seed"])
    rows = choose(rows, parse_indices(images) if images else None)
    painting = PaintingSettings(**{field.name: settings[field.name] for field in dataclasses.fields(PaintingSettings)})
    if model is not None:
        painting = dataclasses.replace(painting, model=model)
    if not execution.compile:
        largest = max((len(row["batch"]) for row in rows), default=1)
        execution = dataclasses.replace(execution, batch_size=largest)
    copy = GeneratedSet(folder)
    copy.make_folder()
    painter = load_painter(painting, execution)
    if painter.model_id() != settings["fingerprint"]:
        logger.warning(
            f"{painting.model} ({painter.model_id()[:12]}) is not the model of {manifest} "
            f"({settings['fingerprint'][:12]}): the images will differ."
        )
    copy.begin(
        {**settings, **dataclasses.asdict(painter.settings), "fingerprint": painter.model_id()},
        description["prompts"],
        description["licence"],
    )
    started = time.time()
    made, different = repaint(copy, painter, rows, description["prompts"], settings["seed"])
    entry = _entry(painter, started, made, part=0, num_images=len(rows), world=World())
    _log_speed(copy, entry, len(copy.finish(entry)))
    for row in different:
        logger.warning(f"This image differs from the manifest: {row['file_name']}")
    logger.info(f"{len(rows) - len(different):,} of {len(rows):,} images are bit for bit those of the manifest.")


def load_painter(painting: PaintingSettings, execution: Execution, local_rank: int = 0) -> Painter:
    """Load a pipeline on its device.

    Args:
        painting: text-to-image model and its settings.
        execution: device and batches.
        local_rank: number of this process on this machine, from 0.

    Raises:
        UserError: the device or dtype cannot be used, or see `Painter`.
    """
    device = resolve_device(execution.device, local_rank)
    if device == "cpu":
        keep_freed_memory()
    painting = dataclasses.replace(painting, dtype=resolve_dtype(painting.dtype, device))
    return Painter(painting, device=device, batch_size=execution.batch_size, compile=execution.compile)


def load_gate(settings: GateSettings, device: str) -> Gate:
    """Build the quality gate, with CLIP if it measures the similarity to the prompt.

    Raises:
        UserError: the CLIP model cannot be loaded.
    """
    if settings.similarity is None:
        return Gate(settings)
    return Gate(settings, ClipSimilarity(settings.clip, settings.clip_weights, device=device))


def _entry(painter: Painter, started: float, made: int, *, part: int, num_images: int, world: World) -> dict[str, Any]:
    """Return the entry of a run in `dataset.json`."""
    return {
        "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
        "part": part,
        "num_images": num_images,
        "rank": world.rank,
        "world_size": world.size,
        "batch_size": painter.batch_size,
        "compile": painter.compile,
        "device": painter.device_name(),
        "host": socket.gethostname(),
        "versions": painter.versions(),
        "images": made,
        "seconds": round(time.time() - started, 2),
        "peak_memory": painter.peak_memory(),
    }


def _log_speed(images: GeneratedSet, entry: dict[str, Any], total: int) -> None:
    made, seconds, peak = entry["images"], entry["seconds"], entry["peak_memory"]
    logger.info(
        f"{made:,} images painted in {seconds:.1f} s ({made / max(seconds, 0.01):.2f} images/s), peak memory "
        f"{'unknown' if peak is None else f'{peak / 2**30:.2f} GiB'}; {images.folder} now has {total:,}."
    )
