"""Records of runs: run.json, metrics.json, class statistics, jobs of an experiment, entries of the SAM cache."""

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from clouds.data.preparation.class_statistics import STATISTICS_FILE, read_class_statistics
from clouds.engine.run.metrics import read_scores, read_training, repair
from clouds.engine.run.record import read_record
from clouds.errors import UserError
from clouds.experiments.jobs import Job
from clouds.experiments.results import metric_means, read_run
from clouds.self_training.sam import Embedding, Sam
from clouds.self_training.sam.cache import CachedSam, _checksum
from fuzzing.inputs.kind import KEYS, Kind
from fuzzing.mutation import json_bytes, mutate_bytes, mutate_file, mutate_tree

_FILES = ("run.json", "metrics.json", STATISTICS_FILE, "job.json", "cache")
_IMAGE = torch.zeros(3, 4, 6, dtype=torch.uint8)


class _ZeroSam(Sam):
    model_id = "zero"

    def encode(self, images: Sequence[Tensor]) -> list[Embedding]:
        return [Embedding((image.shape[1], image.shape[2]), (torch.zeros(2, 3, 3),)) for image in images]

    def predict(self, embedding: Embedding, points: Tensor) -> Tensor:
        return torch.zeros(len(points), *embedding.size, dtype=torch.bool) & (embedding.features[0].sum() > 0)


@cache
def _trees() -> dict[str, Any]:
    run = {
        "kind": "training",
        "training": "abcdef12",
        "started": "2026-11-27T10:00:00+00:00",
        "command": "x",
        "arguments": {"resume": False},
        "folder": "/x",
        "config": "config.yaml",
        "seed": 3,
        "processes": 1,
        "code": {"commit": "abc", "dirty": True, "diff": "git.diff"},
        "versions": {"torch": "2"},
        "machine": {},
    }
    rows = [
        {"iteration": n, "total_loss": 1.5 / (n + 1), "lr": 1e-5, "loss_ce": 1.0, "val/sem_seg/mIoU": 40.0 + n}
        for n in range(6)
    ]
    statistics = [
        {"0": 7, "1": 9, "file": "labels/0_labelTrainIds.png"},
        {"18": 3, "file": "labels/1_labelTrainIds.png"},
    ]
    job = {"command": ["python", "x"], "inputs": "abc", "seconds": 1.5}
    return {
        "run.json": [run, {**run, "kind": "evaluation", "training": None, "config": "config_eval.yaml"}],
        "metrics.json": rows,
        STATISTICS_FILE: statistics,
        "job.json": job,
    }


def _write(folder: Path, rng: random.Random) -> tuple[str, int]:
    """Write one mutated file of a run; return its name and the iteration at which the run resumes."""
    name = rng.choice(_FILES)
    path = folder / name
    if name == "cache":
        path = _write_entry(folder / "cache", rng)
    elif name == "metrics.json":
        rows = mutate_tree(rng, _trees()[name], rng.choice((0, 1, 1, 2)))
        rows = rows if isinstance(rows, list) else [rows]
        data = b"".join(json_bytes(rng, row).replace(b"\n", b" ") + b"\n" for row in rows)
        path.write_bytes(mutate_bytes(rng, data, rng.choice((0, 0, 1, 2))))
    else:
        data = json_bytes(rng, mutate_tree(rng, _trees()[name], rng.choice((1, 1, 2))))
        path.write_bytes(mutate_bytes(rng, data, rng.choice((0, 0, 0, 1, 2))))
    if rng.random() < 0.05:
        mutate_file(rng, path)
    return name, rng.choice((0, 1, 3, 6, 100))


def _write_entry(folder: Path, rng: random.Random) -> Path:
    """Write an entry of the cache; half of them have a right checksum and hostile content."""
    folder.mkdir()
    key = CachedSam(_ZeroSam(), folder, gigabytes=1).key(_IMAGE)
    shape = rng.choice(((2, 3, 3), (2, 3, 4), (0,), (), (3,), (2, 2, 3, 3)))
    values = torch.zeros(shape, dtype=rng.choice((torch.float16, torch.float16, torch.float32, torch.int8)))
    tensors = rng.choice(
        ({"0": values}, {"0": values}, {"1": values}, {"a": values}, {}, {"0": values, "2": values.clone()})
    )
    payload = save_safetensors(tensors)
    if rng.random() < 0.4:
        payload = mutate_bytes(rng, payload)
    data = _checksum(key, payload) + payload
    path = folder / f"{key}.sam"
    path.write_bytes(mutate_bytes(rng, data) if rng.random() < 0.4 else data)
    return path


def _read(folder: Path, arguments: tuple[str, int]) -> None:
    name, start = arguments
    if name == "run.json":
        for entry in read_record(folder):
            json.dumps(entry)
    elif name == "metrics.json":
        _read_metrics(folder, start)
    elif name == STATISTICS_FILE:
        read_class_statistics(folder / name)
    elif name == "cache":
        sam = CachedSam(_ZeroSam(), folder / "cache", gigabytes=1)
        [embedding] = sam.encode([_IMAGE])
        sam.predict(embedding, torch.zeros(1, 1, 2))
    else:
        job = Job("x", ("python", "x"), folder, steps=5, inputs="abc")
        job.steps_done()
        if job.is_done and not 0 <= job.seconds < float("inf"):
            raise AssertionError(f"a job took {job.seconds} s")
        if folder.is_dir():
            inner = Job("x", ("python", "y"), folder / "inner", inputs="abc")
            inner.begin()
            inner.finish(1.0)


def _read_metrics(folder: Path, start: int) -> None:
    refusal = None
    for read in (
        lambda: Job("x", ("python", "x"), folder, steps=5).steps_done(),
        lambda: read_scores(folder / "metrics.json"),
        lambda: read_run(folder, ["val"]),
        lambda: read_training(folder / "metrics.json"),
        lambda: metric_means(folder, "loss"),
        lambda: (folder / "metrics.json").is_file() and repair(folder / "metrics.json", start, ["val"]),
        lambda: read_training(folder / "metrics.json"),
    ):
        try:
            read()
        except UserError as error:
            refusal = error
    if refusal is not None:
        raise refusal


KIND = Kind(_write, _read, KEYS)
