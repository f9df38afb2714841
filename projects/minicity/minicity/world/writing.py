"""Writes the minicity data sets as PNG files. See `minicity.world.datasets` for the layout of a set."""

import functools
import json
import logging
from pathlib import Path
from typing import Any

import cv2

from clouds.errors import UserError
from clouds.utils.atomic import append_file, make_folder, write_atomically, writing
from clouds.utils.json_files import read_json
from clouds.utils.jsonl import Row, valid_rows, write_rows
from clouds.utils.processes import parallel_map
from minicity.world.render import render
from minicity.world.scene import sample_scene, scene_rng
from minicity.world.sets import DRAWING_VERSION, DRAWN_SETS, SIZE, WIDE, DrawnSet
from minicity.world.style import Style
from minicity.world.styles import find_style
from minicity.world.wide import WIDE_STYLES

logger = logging.getLogger(__name__)

_WORTH_PROCESSES = 150  # fewer images are drawn by this process in the time that others take to start
# Coprime to the number of wide styles: every style takes its turn, and neighboring scenes differ in every respect.
_STRIDE = 101


def write_dataset(
    name: str, root: Path, num_images: int | None = None, size: tuple[int, int] = SIZE, num_workers: int = 1
) -> Path:
    """Write a data set, or the images that it lacks. A complete set is not touched.

    Args:
        name: name in `DRAWN_SETS`.
        root: folder that holds all data sets.
        num_images: number of images; default that of `DRAWN_SETS`. A set with more images keeps them.
        size: (H, W) at which scenes are drawn, in pixels.
        num_workers: number of processes for large sets. The images do not depend on it.

    Returns:
        The folder of the set.

    Raises:
        UserError: the name is unknown, the number or size is below 1, or the folder holds images that were drawn with
            other settings.
    """
    if name not in DRAWN_SETS:
        raise UserError(f"minicity has no data set {name!r}; it has {', '.join(DRAWN_SETS)}.")
    drawn_set = DRAWN_SETS[name]
    wanted = drawn_set.num_images if num_images is None else num_images
    if wanted < 1 or min(size) < 1:
        raise UserError(f"{name}: {wanted} images of {size[0]} x {size[1]} pixels cannot be drawn; ask for 1 or more.")
    folder = root / "minicity" / name
    _prepare(folder, drawn_set, size)
    final, partial = folder / "captions.jsonl", folder / "captions.partial.jsonl"
    captions = _finished(folder, final) | _finished(folder, partial)
    missing = [index for index in range(wanted) if f"{index:06d}" not in captions]
    if not missing and final.is_file():
        logger.info("%s: all %d images exist.", name, len(captions))
        return folder

    write_image = functools.partial(_write_image, folder, drawn_set, size)
    processes = num_workers if len(missing) >= _WORTH_PROCESSES else 1
    with append_file(partial) as file:
        # End a line that an interrupted run left incomplete, so that it does not swallow the next one.
        line = "\n"
        for index, caption in parallel_map(write_image, missing, processes=processes, title=name):
            captions[f"{index:06d}"] = caption
            line += json.dumps(_row(f"{index:06d}", caption)) + "\n"
            with writing(partial):
                file.write(line.encode())
                file.flush()
            line = ""
    write_rows(final, (_row(*item) for item in sorted(captions.items())))
    partial.unlink()
    return folder


def style_of(drawn_set: DrawnSet, index: int) -> Style:
    """Return the style of scene `index` of a set."""
    if drawn_set.style == WIDE:
        return WIDE_STYLES[index * _STRIDE % len(WIDE_STYLES)]
    return find_style(drawn_set.style)


def _write_image(folder: Path, drawn_set: DrawnSet, size: tuple[int, int], index: int) -> str:
    """Draw a scene, write its image and label map, and return its caption."""
    style = style_of(drawn_set, index)
    rng = scene_rng(style, drawn_set.seed, index)
    rendered = render(sample_scene(style, rng, size), rng)
    width, height = size[1] // drawn_set.shrink, size[0] // drawn_set.shrink
    for kind, pixels, method in (
        ("images", rendered.image[:, :, ::-1], cv2.INTER_AREA),
        ("labels", rendered.label, cv2.INTER_NEAREST_EXACT),
    ):
        stored = cv2.resize(pixels, (width, height), interpolation=method)
        encoded = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 4])[1]
        write_atomically(folder / kind / f"{index:06d}.png", encoded.tobytes())
    return rendered.caption


def _prepare(folder: Path, drawn_set: DrawnSet, size: tuple[int, int]) -> None:
    """Create the folders of a set and record its settings, or compare them with those of the images in it."""
    settings: dict[str, Any] = {
        "style": drawn_set.style,
        "seed": drawn_set.seed,
        "size": list(size),
        "drawing": DRAWING_VERSION,
    }
    if drawn_set.shrink > 1:
        settings["shrink"] = drawn_set.shrink
    for kind in ("images", "labels"):
        make_folder(folder / kind)
    file = folder / "settings.json"
    if not file.is_file():
        write_atomically(file, json.dumps(settings))
        return
    before = read_json(file, dict, f"delete the folder {folder} to draw the set again")
    other = [key for key in settings if before.get(key) != settings[key]]
    if other:
        differences = ", ".join(f"{key} {before.get(key)} instead of {settings[key]}" for key in other)
        raise UserError(f"{folder} holds images drawn with {differences}; delete that folder or choose another --root.")


def _finished(folder: Path, file: Path) -> dict[str, str]:
    """Return the captions in a file, by image id, of the images whose files both exist."""
    return {
        row["image_id"]: row["caption"]
        for row in valid_rows(file)
        if all((folder / kind / f"{row['image_id']}.png").is_file() for kind in ("images", "labels"))
    }


def _row(image_id: str, caption: str) -> Row:
    return {"image_id": image_id, "caption": caption}
