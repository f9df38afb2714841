"""Folders of trainings that are resumed or evaluated: record, metrics, resolved config, checkpoints."""

import random
import tempfile
from functools import cache
from pathlib import Path

from yaml import safe_load

from clouds.commands.train import parse_arguments
from clouds.engine.training import train_or_evaluate
from fuzzing.inputs.configs import _text
from fuzzing.inputs.kind import KEYS, Kind
from fuzzing.inputs.network import register_tiny_sets, tiny_config
from fuzzing.mutation import copy_files, json_bytes, mutate_bytes, mutate_file, mutate_tree

_NAMES = ("run.json", "metrics.json", "config.yaml", "last_checkpoint", "model_final.pth", "model_0000001.pth")


@cache
def _data() -> Path:
    return Path(tempfile.mkdtemp(prefix="data-"))


@cache
def _valid() -> Path:
    """Train once, for four iterations."""
    folder = Path(tempfile.mkdtemp(prefix="run-"))
    register_tiny_sets(_data())
    train_or_evaluate(tiny_config(folder), parse_arguments(["--config-file", "config.yaml", "--force"]))
    return folder


def _write(folder: Path, rng: random.Random) -> list[str]:
    """Copy a training, damage one or two of its files, and return the flags of the next start."""
    copy_files(_valid(), folder / "run")
    for name in rng.sample(_NAMES, rng.choice((1, 1, 2))):
        path = folder / "run" / name
        data = path.read_bytes()
        what = rng.random()
        if what < 0.1:
            mutate_file(rng, path)
        elif what < 0.6 or path.suffix not in (".json", ".yaml"):
            path.write_bytes(mutate_bytes(rng, data, rng.choice((1, 1, 2))))
        elif name == "metrics.json":
            rows = mutate_tree(rng, [safe_load(line) for line in data.splitlines()])
            rows = rows if isinstance(rows, list) else [rows]
            path.write_bytes(b"".join(json_bytes(rng, row).replace(b"\n", b" ") + b"\n" for row in rows))
        else:
            tree = mutate_tree(rng, safe_load(data), rng.choice((1, 2)))
            path.write_bytes(_text(rng, tree) if path.suffix == ".yaml" else json_bytes(rng, tree))
    return rng.choice((["--resume"], ["--resume"], ["--resume"], ["--resume", "--eval-only"], ["--eval-only"], []))


def _read(folder: Path, flags: list[str]) -> None:
    register_tiny_sets(_data())
    cfg = tiny_config(folder / "run")
    cfg.SOLVER.MAX_ITER = 6
    if "--eval-only" in flags and "--resume" not in flags:
        cfg.MODEL.WEIGHTS = str(folder / "run" / "model_final.pth")
    train_or_evaluate(cfg, parse_arguments(["--config-file", "config.yaml", "--force", *flags]))


KIND = Kind(_write, _read, KEYS)
