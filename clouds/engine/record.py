"""Record of a run in its output folder: config, code, versions, machine and command line, so that it can be repeated.

`run.json` has one entry for each start in the folder: a training, a resumed training, or an evaluation. An entry names
the file with its config and, if the code had local changes, the file with their diff. No file is lost: if a new
training or evaluation needs the name of an earlier file, the earlier file is renamed after the number of its entry.
"""

import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

import clouds
from clouds import d2
from clouds.d2 import CfgNode, comm
from clouds.errors import UserError
from clouds.utils.atomic import write_atomically

PACKAGES = (
    *("torch", "torchvision", "open_clip_torch", "timm", "fvcore", "iopath", "numpy", "scipy"),
    *("transformers", "diffusers", "accelerate", "segment-anything", "huggingface_hub"),
    *("opencv-python-headless", "opencv-python", "pillow", "safetensors", "detectron2", "wandb"),
)

UNKNOWN = "unknown"

Entry = dict[str, Any]


class Kind(StrEnum):
    """Kind of a start."""

    TRAINING = "training"
    RESUMED = "training, resumed"
    EVALUATION = "evaluation"


def write_record(output: Path, cfg: CfgNode, args: argparse.Namespace, kind: Kind) -> Entry:
    """Add this start to the record. Called by the main process only.

    Args:
        output: existing output folder.
        cfg: resolved config; its device may still be "auto", so that the file can be used on another machine.
        args: parsed command line.
        kind: kind of this start; a resumed training belongs to the newest recorded training.

    Returns:
        The new entry of `run.json`.

    Raises:
        UserError: the existing `run.json` cannot be read.
    """
    entries = read_record(output)
    number = len(entries) + 1
    suffix = {Kind.TRAINING: "", Kind.RESUMED: f"_{number}", Kind.EVALUATION: "_eval"}[kind]
    config, diff = f"config{suffix}.yaml", f"git{suffix}.diff"
    for name in (config, diff):
        _keep(output, name, entries)

    code, changes = git_state()
    if changes:
        code["diff"] = diff
        write_atomically(output / diff, changes)
    write_atomically(output / config, cfg.dump())
    entry: Entry = {
        "kind": kind.value,
        "training": _training(entries, kind),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "arguments": vars(args),
        "folder": str(Path.cwd()),
        "config": config,
        "seed": cfg.SEED,
        "processes": comm.get_world_size(),
        "code": code,
        "versions": versions(),
        "machine": machine(),
    }
    entries.append(entry)
    write_atomically(output / "run.json", json.dumps(entries, indent=2, default=str, ensure_ascii=False) + "\n")
    return entry


def read_record(output: Path) -> list[Entry]:
    """Return the entries of `run.json` in `output`, oldest first; an empty list if there is no such file.

    Raises:
        UserError: the file cannot be read.
    """
    file = output / "run.json"
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(entry, dict) for entry in entries):
            raise TypeError("its entries are not objects")
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is not a record of runs ({error}): repair it or move it away.") from error
    return entries


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed `PACKAGES`."""
    found = {"python": platform.python_version(), "clouds.d2": d2.MODE}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"torch": torch.__version__}  # names the CUDA version, too


def machine() -> dict[str, Any]:
    """Describe the machine: host, system, number of CPUs and threads, CUDA, GPUs."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "gpus": [torch.cuda.get_device_name(index) for index in gpus],
    }


def git_state() -> tuple[dict[str, Any], bytes]:
    """Return the state of the git checkout of this package, and its diff to the commit.

    Returns:
        ``commit``; ``dirty``, whether a tracked file has changed; and ``untracked``, a list of names. Outside git the
        commit is "unknown" and the other keys are missing. Then the diff, empty if there is none.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": UNKNOWN}, b""
    changes = _git("diff", "--no-color", "--no-ext-diff", "HEAD") or b""
    untracked = _git("ls-files", "--others", "--exclude-standard", "--directory") or b""
    names = untracked.decode(errors="replace").splitlines()
    return {"commit": commit.decode().strip(), "dirty": bool(changes), "untracked": names}, changes


@functools.cache
def code_version() -> str:
    """Return the short commit of this package's checkout: ``+dirty`` with local changes, ``unknown`` outside git."""
    answer = _git("describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+dirty")
    return UNKNOWN if answer is None else answer.decode().strip()


def _git(*words: str) -> bytes | None:
    """Run git in the checkout of this package and return its output; None if there is no checkout or no git."""
    root = Path(clouds.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # an installed package may be inside another repository
        return None
    try:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _training(entries: list[Entry], kind: Kind) -> str | None:
    """Return the id of the training that a start belongs to; None for an evaluation."""
    if kind is Kind.EVALUATION:
        return None
    earlier = [entry["training"] for entry in entries if entry["training"]] if kind is Kind.RESUMED else []
    return earlier[-1] if earlier else uuid.uuid4().hex[:8]


def _keep(output: Path, name: str, entries: list[Entry]) -> None:
    """Rename a file of an earlier start, after the number of its entry or 0 if it has none, to free its name."""
    path = output / name
    if not path.exists():
        return
    owners = [n for n, entry in enumerate(entries, 1) if name in (entry["config"], entry["code"].get("diff"))]
    number = owners[-1] if owners else 0
    kept = f"{path.stem}_{number}{path.suffix}"
    path.replace(output / kept)
    if owners:
        entry = entries[number - 1]
        if entry["config"] == name:
            entry["config"] = kept
        else:
            entry["code"]["diff"] = kept
