"""Generated sets: images with their records, manifest, rejected images, description."""

import io
import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from clouds.data.datasets.generated import find_generated, list_generated
from clouds.generation.dataset import CHUNK, GeneratedSet, read_manifest
from clouds.generation.plan import image_seed
from clouds.generation.run import choose
from clouds.generation.statistics import report
from fuzzing.inputs.kind import Kind
from fuzzing.mutation import copy_files, files_below, json_bytes, mutate_bytes, mutate_file, mutate_tree

_PROMPTS = ["a road in the rain", "a street at night"]
_SETTINGS = {
    "model": "someone/model",
    "revision": None,
    "scheduler": "euler",
    "steps": 5,
    "guidance": 7.5,
    "height": 16,
    "width": 24,
    "negative_prompt": "",
    "dtype": "fp32",
    "fingerprint": "abc",
    "seed": 3,
    "gate": None,
}
_RUN = {"part": 0, "num_images": 3, "seconds": 1.5, "versions": {"torch": "2"}, "device": "cpu"}
_FILES = ("manifest.jsonl", "rejected.jsonl", "dataset.json", "images/im_0_p0.png", "images/im_1_p1.png")


@cache
def _valid() -> Path:
    """Write a valid set once, as the generator does."""
    folder = Path(tempfile.mkdtemp(prefix="valid-")) / "stable_diffusion" / "sd_x"
    images = GeneratedSet(folder)
    images.begin(_SETTINGS, _PROMPTS, "open")
    rng = np.random.default_rng(0)
    for index in range(3):
        images.write(rng.integers(0, 256, (16, 24, 3), np.uint8), _row(index))
    images.reject([{**_row(2), "attempt": 1, "reason": "blank"}])
    images.finish(_RUN)
    return folder.parent.parent


def _row(index: int) -> dict[str, Any]:
    prompt = index % len(_PROMPTS)
    return {
        "index": index,
        "prompt_index": prompt,
        "prompt": _PROMPTS[prompt],
        "seed": image_seed(3, index, 0),
        "attempt": 0,
        "batch": [0, 1, 2],
        "height": 16,
        "width": 24,
        "similarity": None,
        "dhash": "00ff00ff00ff00ff",
    }


def _write(folder: Path, rng: random.Random) -> None:
    copy_files(_valid(), folder)
    own = folder / "stable_diffusion" / "sd_x"
    for name in rng.sample(_FILES, rng.choice((1, 1, 2))):
        path = own / name
        data = path.read_bytes()
        if rng.random() < 0.1:
            mutate_file(rng, path)
        elif rng.random() < 0.4:
            path.write_bytes(mutate_bytes(rng, data, rng.choice((1, 2))))
        elif name.endswith(".jsonl"):
            rows = mutate_tree(rng, [json.loads(line) for line in data.splitlines()], rng.choice((1, 2)))
            rows = rows if isinstance(rows, list) else [rows]
            path.write_bytes(b"".join(json_bytes(rng, row).replace(b"\n", b" ") + b"\n" for row in rows))
        elif name.endswith(".json"):
            path.write_bytes(json_bytes(rng, mutate_tree(rng, json.loads(data), rng.choice((1, 2)))))
        else:
            path.write_bytes(_with_record(rng, data))
    if rng.random() < 0.05:
        (own / "images" / rng.choice(("im_9_p9.png", "im_0_p1.png", "other.png", "x.jpg"))).write_bytes(
            (files_below(_valid())[-1]).read_bytes()
        )


def _with_record(rng: random.Random, data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        record = mutate_tree(rng, json.loads(image.info[CHUNK]), rng.choice((1, 2)))
        chunk, stream = PngImagePlugin.PngInfo(), io.BytesIO()
        chunk.add_itxt(CHUNK, json_bytes(rng, record).decode("utf-8", "replace"), zip=rng.random() < 0.2)
        image.save(stream, "PNG", pnginfo=chunk)
    return stream.getvalue()


def _read(folder: Path, _: None) -> None:
    own = folder / "stable_diffusion" / "sd_x"
    found = find_generated(folder)
    list_generated("sd_x", found["sd_x"])
    choose(read_manifest(own / "manifest.jsonl"), [0, 1])
    report(own)
    images = GeneratedSet(own)
    images.begin(_SETTINGS, _PROMPTS, "open")
    for index in range(3):
        images.row(index, index % 2)
    images.rejected()
    images.reject([{**_row(1), "attempt": 2, "reason": "blank"}])
    images.finish(_RUN)
    rows = read_manifest(images.manifest_file)
    images.manifest_file.unlink()
    again = GeneratedSet(own)
    again.begin(_SETTINGS, _PROMPTS, "open")
    if again.all_rows() != rows:
        raise AssertionError("the manifest does not hold the rows of the images")


KIND = Kind(_write, _read)
