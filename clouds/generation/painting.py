"""Generation of one process's share of a set, and repetition of the images of a manifest."""

import dataclasses
import datetime
import logging
import socket
import time
from pathlib import Path
from typing import Any

from clouds.errors import UserError
from clouds.generation.dataset import GeneratedSet, read_description, read_manifest
from clouds.generation.device import resolve_device, resolve_dtype
from clouds.generation.gate import Gate
from clouds.generation.painter import Painter
from clouds.generation.plan import blocks, parse_indices
from clouds.generation.prompts import find_prompts, read_prompts
from clouds.generation.run import Run, choose, repaint
from clouds.generation.settings import Execution, GateSettings, PaintingSettings
from clouds.generation.similarity import ClipSimilarity
from clouds.utils.world import World, world_from

logger = logging.getLogger(__name__)


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
) -> None:
    """Generate this process's share of a part of a set. Images that exist already are kept.

    Args:
        folder: folder of the set.
        painting: text-to-image model and its settings.
        prompts: path of the prompt file, with or without ``.txt``.
        num_images: number of images of the part.
        part: number of the part, from 0; it has the images ``part * num_images`` to ``(part + 1) * num_images - 1``.
        seed: seed of the set.
        gate: settings of the quality gate; None for no gate.
        execution: device and batches.

    Raises:
        UserError: a file cannot be read or written, a model cannot be loaded, or the folder holds another set.
        KeyboardInterrupt: the process was stopped; the manifest is written first.
    """
    texts = read_prompts(find_prompts(prompts))
    world = world_from()
    images = GeneratedSet(folder)
    images.make_folder()
    painter = load_painter(painting, execution, world.local_rank)
    for index, text in painter.truncated_prompts(texts).items():
        logger.warning(f"Prompt {index} is too long for the model, which does not read its end: {text!r}")
    judge = load_gate(gate, painter.device) if gate is not None else None
    images.begin(
        {
            **dataclasses.asdict(painter.settings),
            "fingerprint": painter.model_id(),
            "seed": seed,
            "gate": dataclasses.asdict(gate) if gate is not None else None,
        },
        texts,
        painter.licence(),
    )
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
    started, stopped = time.time(), False
    try:
        run()
    except KeyboardInterrupt:
        stopped = True
    _finish(images, painter, started, run.written, part=part, num_images=num_images, world=world)
    if stopped:
        raise KeyboardInterrupt


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
    manifest = source / "manifest.jsonl" if source.is_dir() else source
    if not manifest.is_file():
        raise UserError(
            f"There is no manifest {manifest} (--from-manifest); name a set's folder or its manifest.jsonl."
        )
    if manifest.parent.resolve() == folder.resolve():
        raise UserError(f"--from-manifest names {folder} itself; give another --folder.")
    description = read_description(manifest.parent / "dataset.json")
    settings: dict[str, Any] = description["settings"]
    rows = choose(read_manifest(manifest), parse_indices(images) if images else None)
    painting = PaintingSettings(**{field.name: settings[field.name] for field in dataclasses.fields(PaintingSettings)})
    if model is not None:
        painting = dataclasses.replace(painting, model=model)
    if not execution.compile:
        largest = max((len(row["batch"]) for row in rows), default=1)
        execution = dataclasses.replace(execution, batch_size=largest)
    painter = load_painter(painting, execution)
    if painter.model_id() != settings["fingerprint"]:
        logger.warning(
            f"{painting.model} ({painter.model_id()[:12]}) is not the model of {manifest} "
            f"({settings['fingerprint'][:12]}): the images will differ."
        )
    copy = GeneratedSet(folder)
    copy.begin(
        {**settings, **dataclasses.asdict(painter.settings), "fingerprint": painter.model_id()},
        description["prompts"],
        description["licence"],
    )
    started = time.time()
    different = repaint(copy, painter, rows, description["prompts"], settings["seed"])
    _finish(copy, painter, started, len(rows), part=0, num_images=len(rows), world=World())
    logger.info(f"{len(rows) - len(different):,} of {len(rows):,} images are bit for bit those of the manifest.")
    for row in different[:10]:
        logger.warning(f"This image differs from the manifest: {row['file_name']}")


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


def _finish(
    images: GeneratedSet, painter: Painter, started: float, made: int, *, part: int, num_images: int, world: World
) -> None:
    """Write the manifest, the card and the entry of this run, and log the speed."""
    seconds = time.time() - started
    total = images.finish(
        {
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
            "seconds": round(seconds, 2),
            "peak_memory": painter.peak_memory(),
        }
    )
    logger.info(
        f"{made:,} images painted in {seconds:.1f} s ({made / seconds:.2f} images/s), peak memory "
        f"{painter.peak_memory() / 2**30:.2f} GiB; {images.folder} now has {total:,}."
    )
