"""Custom data sets: their YAML file, the files that it names, lists, and the saved result of a check."""

import os
import random
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from PIL import Image

from clouds.data.datasets.catalog import load_dataset, register_datasets
from clouds.data.datasets.custom import dataset_settings, read_custom
from clouds.data.datasets.lists import write_list
from clouds.data.preparation.check import check_dataset, find_problem, saved_problems
from clouds.data.preparation.listing import DescribedFiles
from fuzzing.inputs.configs import _text
from fuzzing.inputs.kind import KEYS, Kind
from fuzzing.mutation import hostile_text, json_bytes, mutate_bytes, mutate_file, mutate_tree

_SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "datasets"
_SMALL = {
    "name": "small",
    "folder": "data",
    "splits": {
        "train": {"images": "train/*.png", "labels": "train_labels/*_L.png"},
        "val": {"images": "val/*.png", "labels": "val_labels/*_L.png"},
    },
    "encoding": "ids",
    "ignore": [0],
    "rest": "ignore",
    "classes": [
        {"name": "road,street", "color": [128, 64, 128], "values": [7, 8]},
        {"name": "sky", "color": [70, 130, 180], "values": [23]},
    ],
}
_LISTED = {**_SMALL, "splits": {"train": {"list": "train.txt"}, "val": {"list": "train.txt", "images": "*.png"}}}
_COLORS = {key: value for key, value in _SMALL.items() if key != "rest"} | {
    "encoding": "colors",
    "ignore": [[0, 0, 0]],
    "classes": [{"name": "road", "color": [7, 7, 7]}, {"name": "sky", "color": [23, 23, 23], "values": [[23, 23, 23]]}],
}
_CHANNEL = {**_SMALL, "channel": "red", "classes": "cityscapes", "values": {"road": [1, 24], "sky": [23]}}
_PATTERNS = (
    *("*", "*.png", "**/*.png", "train/**/*.png", "train/*/*.png", "*/*.png", "train/?.png", "train/[0-9].png"),
    *(
        "train/*.{png,jpg}",
        "train/{a,b}*.png",
        "/train/*.png",
        "../*.png",
        "train/../val/*.png",
        "./train/*.png",
        "tr*in/*",
    ),
    *(
        "train//*.png",
        "train/*",
        "train/*.PNG",
        "train\\*.png",
        "train/0.png",
        "train/*.png ",
        "{,train}/*.png",
        "{{}/*.png",
    ),
)


@cache
def _trees() -> list[Any]:
    shipped = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(_SHIPPED.glob("*.yaml"))]
    return [_SMALL, _SMALL, _LISTED, _COLORS, _CHANNEL, {**_SMALL, "classes": "cityscapes"}, *shipped]


@cache
def _pixels() -> tuple[Image.Image, Image.Image]:
    image = Image.fromarray(np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3))
    return image, Image.fromarray(np.repeat(np.array([[7, 8, 23, 0]], np.uint8), 12, axis=0).reshape(6, 8))


def _write(folder: Path, rng: random.Random) -> str:
    """Write set.yaml, the folder data, and lists; return the file that is not valid."""
    image, label = _pixels()
    for split in ("train", "val"):
        for name in ("0", "1"):
            for path, pixels in ((f"{split}/{name}.png", image), (f"{split}_labels/{name}_L.png", label)):
                (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
                pixels.save(folder / "data" / path)
    own, shipped = _trees()[:6], _trees()[6:]
    tree = rng.choice(own if rng.random() < 0.9 else shipped)
    target = rng.choice(("set.yaml",) * 6 + ("list", "list", "check", "names"))
    if target == "set.yaml":
        tree = mutate_tree(rng, tree, rng.choice((1, 1, 2, 4)))
        if rng.random() < 0.2 and isinstance(tree, dict) and isinstance(tree.get("splits"), dict):
            split = {kind: rng.choice(_PATTERNS) for kind in ("images", "labels")[: rng.choice((1, 2))]}
            tree["splits"][rng.choice(("train", "val", "../../x", "a/b", hostile_text(rng)[:300]))] = split
    content = _text(rng, tree)
    if target == "set.yaml" and rng.random() < 0.2:
        content = mutate_bytes(rng, content)
    (folder / "set.yaml").write_bytes(content)
    if target == "list":
        lines = "".join(f"data/train/{n}.png\tdata/train_labels/{n}_L.png\n" for n in "01")
        content = mutate_bytes(rng, lines.encode(), rng.choice((1, 2)))
        _hostile_file(rng, folder / "lists" / "small_train.txt", content)
        _hostile_file(rng, folder / "data" / "train.txt", content.replace(b"data/", b""))
    elif target == "check":
        saved = {"fingerprint": "1 abc", "pairs": 2, "problems": []}
        _hostile_file(rng, folder / "checks" / "small_train.json", json_bytes(rng, mutate_tree(rng, saved)))
    elif target == "names":
        for _ in range(rng.choice((1, 1, 5))):
            name = hostile_text(rng).encode("utf-8", "ignore").decode()
            name = name.replace("/", "").replace("\x00", "")[:200]
            name += rng.choice((".png", ".PNG", "_L.png", ""))
            path = folder / "data" / rng.choice(("train", "train_labels")) / name
            if name.strip(".") and len(os.fsencode(name)) < 250:
                path.write_bytes((folder / "data/train/0.png").read_bytes())
    return target


def _hostile_file(rng: random.Random, path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if rng.random() < 0.1:
        mutate_file(rng, path)


def _read(folder: Path, target: str) -> None:
    file = folder / "set.yaml"
    with mock.patch.dict(os.environ, {"DETECTRON2_DATASETS": str(folder)}):
        dataset_settings(file)
        specs = read_custom(file)
        for spec in specs[:3]:
            files = DescribedFiles(spec, folder)
            check_dataset(files)
            saved_problems(files)
        register_datasets(folder, custom=(str(file),))
        find_problem([spec.name for spec in specs[:3]], custom=(str(file),))
        for spec in specs[:3]:
            records = load_dataset(spec.name)
            if target != "list":
                write_list(spec.list_file(folder), folder, records)
                if spec.load(folder) != records:
                    raise AssertionError("a list that was written does not read as the records of its set")


KIND = Kind(_write, _read, KEYS)
