"""minicity as data sets: what there is, writing them as ordinary PNG files, and finding them again.

``<root>/minicity/<name>/images/000000.png`` RGB, ``labels/000000.png`` train ids, ``captions.jsonl`` one line an image,
``settings.json`` what they were drawn with. ``captions.jsonl`` is written last: a set that has it is complete.

One set stands for generated images: nothing trains on its labels, they only tell how good pseudo-labels are.
"""

import functools
import json
import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from clouds.errors import UserError
from clouds.utils.atomic import atomic_file

if TYPE_CHECKING:
    from minicity.world.style import Style

logger = logging.getLogger(__name__)

SIZE = (256, 512)
NUM_TRAIN = 600
NUM_GENERATED = 240
NUM_VAL = 50
_WORTH_WORKERS = 150  # fewer are drawn by this process in the time that workers take to start
COMMAND = "python projects/minicity/tools/render.py"
DRAWING = 1
"""Raised whenever the same seed would give other pictures than before; old and new ones must not mix in a set."""


@dataclass(frozen=True)
class Part:
    """A data set: scenes 0, 1, ... of a style and seed.

    Attributes:
        style: one of ``minicity.world.styles.STYLES``, or ``WIDE``.
        seed: of the scenes.
        num_images: how many there are unless somebody wants another number.
        shrink: images are stored at 1/shrink of the size they are drawn at.
        generated: records say so, and have the truth in place of labels.
    """

    style: str
    seed: int
    num_images: int
    shrink: int = 1
    generated: bool = False


WIDE = "wide"
"""Stands for all of ``minicity.world.wide.WIDE_STYLES``: a style of its own for each scene, chosen by its number."""
_STRIDE = 101  # prime to their number, so that all have their turn, and any few scenes in a row differ in all respects

PARTS: dict[str, Part] = {
    "minicity_sim_train": Part("minicity_sim", 1, NUM_TRAIN),
    # A training crop's size, because generated images are not cropped.
    "minicity_generated_train": Part(WIDE, 3, NUM_GENERATED, shrink=2, generated=True),
    "minicity_sim_val": Part("minicity_sim", 2, NUM_VAL),
    "minicity_city_val": Part("minicity_city", 2, NUM_VAL),
    "minicity_night_val": Part("minicity_night", 2, NUM_VAL),
    "minicity_rain_val": Part("minicity_rain", 2, NUM_VAL),
    "minicity_fog_val": Part("minicity_fog", 2, NUM_VAL),
    "minicity_snow_val": Part("minicity_snow", 2, NUM_VAL),
}
"""The sets by name. No seed serves two sets of one style, so training and validation scenes are disjoint; nor does the
miniature CLIP, which is trained and tested on scenes of the same kind, know any of the generated set."""


def register(root: Path) -> None:
    """Make the sets known to the catalogue; reads no file. The plug-in contract of ``DATASETS.MODULES``."""
    # Processes that only draw do without the catalogue, and so without torch.
    from clouds.data.datasets import catalog

    for name in PARTS:
        catalog.register(name, functools.partial(load, name, root))


def load(name: str, root: Path) -> list[dict[str, Any]]:
    """Records of a written set.

    Raises:
        UserError: it has not been written, or not to the end.
    """
    folder = root / "minicity" / name
    generated = PARTS[name].generated
    records = []
    for line in read_captions(name, root):
        image, label = folder / "images" / f"{line['image_id']}.png", folder / "labels" / f"{line['image_id']}.png"
        if not image.is_file() or not label.is_file():
            raise UserError(f"{name}: {image} or its label map is missing; write it again with: {_command(root)}")
        record: dict[str, Any] = {"file_name": str(image), "image_id": f"{name}_{line['image_id']}"}
        if generated:
            record |= {"is_generated": True, "truth_file_name": str(label)}
        else:
            record["sem_seg_file_name"] = str(label)
        records.append(record)
    return records


def read_captions(name: str, root: Path) -> list[dict[str, str]]:
    """``{"image_id", "caption"}`` of every image of a written set, in order.

    Raises:
        UserError: it has not been written, or not to the end.
    """
    file = root / "minicity" / name / "captions.jsonl"
    if not file.is_file():
        raise UserError(f"{name}: there is no complete set in {file.parent}; write it with: {_command(root)}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_dataset(
    name: str, root: Path, num_images: int | None = None, size: tuple[int, int] = SIZE, num_workers: int = 1
) -> Path:
    """Write a set, or what is missing of it; a complete one is left alone.

    Args:
        name: one of ``PARTS``.
        root: the folder that holds all data sets.
        num_images: default as in ``PARTS``. A set that already has more keeps them.
        size: (H, W) to draw at.
        num_workers: processes, when there is much to draw; the pictures do not depend on it.

    Returns:
        The set's folder.

    Raises:
        UserError: no such set, nothing to draw, or the folder holds one of another size or another version of the
            drawing code.
    """
    if name not in PARTS:
        raise UserError(f"minicity has no data set {name!r}; it has {', '.join(PARTS)}.")
    part = PARTS[name]
    wanted = part.num_images if num_images is None else num_images
    if wanted < 1 or min(size) < 1:
        raise UserError(f"{name}: {wanted} images of {size[0]} x {size[1]} pixels cannot be drawn; ask for 1 or more.")
    folder = root / "minicity" / name
    settings = {"style": part.style, "seed": part.seed, "size": list(size), "drawing": DRAWING}
    _settle(folder, settings | ({"shrink": part.shrink} if part.shrink > 1 else {}))
    final, partial = folder / "captions.jsonl", folder / "captions.partial.jsonl"
    captions = _finished(folder, final) | _finished(folder, partial)
    missing = [index for index in range(wanted) if f"{index:06d}" not in captions]
    if not missing and final.is_file():
        logger.info("%s: %d images are there already.", name, len(captions))
        return folder

    draw = functools.partial(_write_image, folder, part, size)
    with partial.open("a", encoding="utf-8") as file:
        # A line that an interrupted run left half-written must not swallow the next one.
        file.write("\n")
        for index, caption in tqdm(_each(draw, missing, num_workers), total=len(missing), desc=name, unit="image"):
            captions[f"{index:06d}"] = caption
            file.write(_line(f"{index:06d}", caption))
            file.flush()
    _write(final, "".join(_line(*item) for item in sorted(captions.items())).encode())
    partial.unlink()
    return folder


def _each(draw: Any, indices: list[int], num_workers: int) -> Iterator[tuple[int, str]]:
    if num_workers <= 1 or len(indices) < _WORTH_WORKERS:
        yield from map(draw, indices)
        return
    # Spawned, not forked: the caller may have started threads, and a forked child would inherit their locks.
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        yield from pool.imap_unordered(draw, indices, chunksize=4)


def style_of(part: Part, index: int) -> "Style":
    """The style of scene ``index`` of a set."""
    from minicity.world.styles import find_style
    from minicity.world.wide import WIDE_STYLES

    return WIDE_STYLES[index * _STRIDE % len(WIDE_STYLES)] if part.style == WIDE else find_style(part.style)


def _write_image(folder: Path, part: Part, size: tuple[int, int], index: int) -> tuple[int, str]:
    # OpenCV is loaded when pictures are drawn, not when data sets are registered.
    import cv2

    from minicity.world.render import render
    from minicity.world.scene import sample_scene, scene_rng

    style = style_of(part, index)
    rng = scene_rng(style, part.seed, index)
    rendered = render(sample_scene(style, rng, size), rng)
    width, height = size[1] // part.shrink, size[0] // part.shrink
    for kind, pixels, method in (
        ("images", rendered.image[:, :, ::-1], cv2.INTER_AREA),
        ("labels", rendered.label, cv2.INTER_NEAREST_EXACT),
    ):
        stored = cv2.resize(pixels, (width, height), interpolation=method)
        encoded = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 4])[1]
        _write(folder / kind / f"{index:06d}.png", encoded.tobytes())
    return index, rendered.caption


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folders, and refuse to mix pictures that were drawn with other settings."""
    file = folder / "settings.json"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        _write(file, json.dumps(settings).encode())
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    other = [key for key in settings if before.get(key) != settings[key]]
    if other:
        told = ", ".join(f"{key} {before.get(key)} instead of {settings[key]}" for key in other)
        raise UserError(f"{folder} holds images drawn with {told}; delete that folder or choose another --root.")


def _finished(folder: Path, file: Path) -> dict[str, str]:
    """Captions by image of those that are there to the last file."""
    if not file.is_file():
        return {}
    captions = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off when the run was interrupted, or the empty line before a continuation
        stem = row["image_id"]
        if all((folder / kind / f"{stem}.png").is_file() for kind in ("images", "labels")):
            captions[stem] = row["caption"]
    return captions


def _line(stem: str, caption: str) -> str:
    return json.dumps({"image_id": stem, "caption": caption}) + "\n"


def _write(file: Path, content: bytes) -> None:
    with atomic_file(file) as part_file:
        part_file.write_bytes(content)


def _command(root: Path) -> str:
    return f"{COMMAND} --root {root}"
