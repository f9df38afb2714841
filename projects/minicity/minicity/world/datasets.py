"""The written minicity data sets in the catalog of CLOUDS. Configs name this module in `DATASETS.MODULES`.

A set is a folder of ordinary files, written by `minicity.world.writing`:
    <root>/minicity/<name>/images/000000.png    RGB
    <root>/minicity/<name>/labels/000000.png    train ids
    <root>/minicity/<name>/captions.jsonl       one line per image; written last, so its presence marks a complete set
    <root>/minicity/<name>/settings.json        the settings that the images were drawn with
"""

import functools
from pathlib import Path

from clouds.data.datasets import catalog
from clouds.data.datasets.catalog import Record
from clouds.errors import UserError
from clouds.utils.jsonl import read_rows
from minicity.world.sets import DRAWN_SETS

RENDER = "python projects/minicity/tools/render.py"


def register(root: Path) -> None:
    """Add the sets to the catalog without reading a file (the contract of `DATASETS.MODULES`)."""
    for name in DRAWN_SETS:
        catalog.register(name, functools.partial(load, name, root), domain=name.rpartition("_")[0])


def load(name: str, root: Path) -> list[Record]:
    """Return the records of a written set.

    Raises:
        UserError: the set does not exist or is incomplete.
    """
    folder = root / "minicity" / name
    records = []
    for line in read_captions(name, root):
        image, label = folder / "images" / f"{line['image_id']}.png", folder / "labels" / f"{line['image_id']}.png"
        if not image.is_file() or not label.is_file():
            raise UserError(f"{name}: {image} or its label map is missing; write it again with: {_command(name, root)}")
        record: Record = {"file_name": str(image), "image_id": f"{name}_{line['image_id']}"}
        if DRAWN_SETS[name].generated:
            record |= {"is_generated": True, "truth_file_name": str(label)}
        else:
            record["sem_seg_file_name"] = str(label)
        records.append(record)
    return records


def read_captions(name: str, root: Path) -> list[dict[str, str]]:
    """Return `{"image_id", "caption"}` of every image of a written set, in order.

    Raises:
        UserError: the set does not exist or is incomplete.
    """
    file = root / "minicity" / name / "captions.jsonl"
    if not file.is_file():
        raise UserError(f"{name}: there is no complete set in {file.parent}; write it with: {_command(name, root)}")
    return read_rows(file, f"delete {file.parent} and write the set again with: {_command(name, root)}")


def _command(name: str, root: Path) -> str:
    return f"{RENDER} --root {root}{f' --only {name}' if DRAWN_SETS[name].on_demand else ''}"
