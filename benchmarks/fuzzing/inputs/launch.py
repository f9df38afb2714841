"""Environment variables of launchers and of CLOUDS, and words of a command line."""

import argparse
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from clouds import d2
from clouds.commands import generate, predict, train
from clouds.data.datasets.spec import data_root
from clouds.engine import launch
from clouds.errors import UserError
from clouds.generation.plan import blocks, parse_indices
from clouds.utils.world import world_from
from fuzzing.inputs.kind import Kind
from fuzzing.mutation import HOSTILE, weighted

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
_OTHERS = (
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "PMI_SIZE"),
    *("MPI_LOCALRANKID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"),
)
_TEXTS = ("MASTER_ADDR", "CLOUDS_D2", "DETECTRON2_DATASETS", "OMP_NUM_THREADS", "TORCH_NCCL_BLOCKING_WAIT")
_ALL = (*_NUMBERS, *_OTHERS, *_TEXTS)

_FLAGS = (
    *("--config-file", "--num-gpus", "--num-machines", "--machine-rank", "--dist-url", "--resume", "--eval-only"),
    *("--dataset", "--check-data", "--force", "--output", "--folder", "--num-images", "--part", "--seed", "--steps"),
    *("--guidance", "--height", "--batch-size", "--images", "--from-manifest", "--stats", "--duplicate-distance", "--"),
)


def _write(folder: Path, rng: random.Random) -> tuple[int, dict[str, str], list[str], str]:
    """Return which function reads it, the environment, words of a command line, and a list of indices."""
    names = [*(_NUMBERS if rng.random() < 0.6 else ()), *rng.sample(_OTHERS, rng.choice((0, 2, 4)))]
    environment = {name: str(rng.choice((0, 1, 1, 2, 4))) for name in names}
    for name in rng.sample([*names, *_TEXTS], rng.choice((0, 1, 1, 2))):
        environment[name] = _text(rng)
    words = [rng.choice((rng.choice(_FLAGS), _text(rng), "SEED", "x.yaml")) for _ in range(rng.randrange(8))]
    numbers = ",".join(rng.choice(("3", "4-9", "9-4", "", "-", "1-2-3", " 5 ", _text(rng)[:20])) for _ in range(3))
    return weighted(rng, *((4 if call < 2 else 1, call) for call in range(len(_CALLS)))), environment, words, numbers


def _text(rng: random.Random) -> str:
    text = str(
        weighted(rng, (4, rng.choice(HOSTILE)), (1, "١٢"), (1, "1.0"), (1, " 2"), (1, "0x10"), (1, "²"), (1, "+3"))
    )
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:3000]  # neither can be in an environment


_CALLS: tuple[Callable[[list[str], str], object], ...] = (
    lambda words, numbers: blocks(0, 10, 3, world_from()),
    lambda words, numbers: _launch(),
    lambda words, numbers: d2._mode.__wrapped__(),
    lambda words, numbers: data_root(),
    lambda words, numbers: train.parse_arguments(words),
    lambda words, numbers: predict.parse_arguments(words),
    lambda words, numbers: generate.set_folder(generate.parse_arguments(words)),
    lambda words, numbers: parse_indices(numbers),
)


def _read(folder: Path, arguments: tuple[int, dict[str, str], list[str], str]) -> None:
    call, environment, words, numbers = arguments
    kept = {name: value for name, value in os.environ.items() if name not in _ALL}
    with (
        mock.patch.dict(os.environ, {**kept, **environment}, clear=True),
        mock.patch("sys.stderr"),
        mock.patch("sys.stdout"),
    ):
        _CALLS[call](words, numbers)


def _launch() -> None:
    flags = argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
    # Other processes are not waited for: what matters is what is read before.
    with mock.patch.object(launch, "rendezvous", side_effect=UserError("RANK and WORLD_SIZE are accepted")):
        launch.launch(lambda: None, flags, "cpu")


KIND = Kind(_write, _read, re.compile(r"[A-Z][A-Z0-9_]{2,}|--[a-z]"))
