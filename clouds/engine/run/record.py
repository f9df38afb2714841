"""Record of a run in its output folder: config, code, versions, machine and command line, so that it can be repeated.

`run.json` has one entry for each start in the folder: a training, a resumed training, or an evaluation. A training has
a run id, which its entries and its checkpoints carry. An entry names the file with its config and, if the code had
local changes, the file with their diff. No file is lost: a new training finds an empty folder (see
`clouds.engine.run.output_folder`), and an evaluation that needs the name of an earlier file renames that file after the
number of its entry.
"""

import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from clouds import d2
from clouds.d2 import CfgNode, comm
from clouds.engine.run.output_folder import RECORD, free_path, record_lock
from clouds.errors import UserError
from clouds.utils.atomic import write_atomically, writing
from clouds.utils.json_files import read_json
from clouds.utils.world import torchrun_call
from clouds.version import DISTRIBUTION, __version__

PACKAGES = (
    DISTRIBUTION,
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


@dataclass(frozen=True)
class Run:
    """A training, with the newest of its starts.

    Attributes:
        id: id of the run, also the name of its folder in ``previous``.
        seed: its seed; None if the record does not have it.
        config: name of the file with the config of its newest start.
        folder: working folder of that start.
        moved: earlier name -> new name of each input that its first start moved.
        settings: its settings as a checkpoint has them, for a folder without a record.
        torchrun: id of the call of torchrun that has started it, see `clouds.utils.world.torchrun_call`.
        has_unnamed: whether checkpoints without a run id may belong to it, since an older version started it.
    """

    id: str
    seed: int | None = None
    config: str = "config.yaml"
    folder: str = "."
    moved: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    torchrun: str | None = None
    has_unnamed: bool = True


def new_run_id() -> str:
    """Return a new run id: the local time and four random digits, such as ``20261130-142233-3fa9``."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def is_run_id(value: Any) -> bool:
    """Return whether a value from a file is a run id, which is safe as the name of a folder."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", value, re.ASCII) is not None


def current_run(output: Path) -> Run | None:
    """Return the newest training in the record of an output folder, None if there is none.

    Raises:
        UserError: the record cannot be read.
    """
    entries = [entry for entry in read_record(output) if _run_id(entry)]
    if not entries:
        return None
    newest = entries[-1]
    run = _run_id(newest)
    first = next(entry for entry in entries if _run_id(entry) == run)
    return Run(
        id=str(run),
        seed=newest.get("seed"),
        config=newest["config"],
        folder=newest.get("folder", "."),
        moved=first.get("moved", {}),
        torchrun=newest.get("torchrun"),
        has_unnamed=first["kind"] != Kind.TRAINING or "run" not in first,
    )


def shared_run(output: Path) -> Run | None:
    """Return `current_run` of the main process in all processes, which call this together."""
    return comm.all_gather(current_run(output) if comm.is_main_process() else None)[0]


def write_record(
    output: Path,
    cfg: CfgNode,
    args: argparse.Namespace,
    kind: Kind,
    run: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> Entry:
    """Add this start to the record. Called by the main process only, which holds the `record_lock`.

    Args:
        output: existing output folder.
        cfg: resolved config; its device may still be "auto", so that the file can be used on another machine.
        args: parsed command line.
        kind: kind of this start.
        run: id of the run; None for an evaluation.
        moved: earlier name -> new name of each input in the folder that this start has moved.

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
        "run": run,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "arguments": vars(args),
        "folder": str(Path.cwd()),
        "config": config,
        "seed": cfg.SEED,
        "process": os.getpid(),
        "processes": comm.get_world_size(),
        "code": code,
        "versions": versions(),
        "machine": machine(),
        **({"moved": dict(moved)} if moved else {}),
        **({"torchrun": call} if (call := torchrun_call()) else {}),
    }
    entries.append(entry)
    _write_entries(output, entries)
    return entry


def amend_record(output: Path, **fields: Mapping[str, Any]) -> None:
    """Add fields to the newest training of the record. Called by the main process only.

    Args:
        output: output folder; nothing is written if its record has no training.
        fields: ``data``, a digest of each data set by its name; ``ending``, plain values that tell how the training has
            ended, among them ``weights_sha256``, a digest of the trained weights.

    Raises:
        UserError: the record cannot be read or written.
    """
    with record_lock(output):
        entries = read_record(output)
        trainings = [entry for entry in entries if _run_id(entry)]
        if trainings:
            trainings[-1] |= {name: dict(value) for name, value in fields.items()}
            _write_entries(output, entries)


def _write_entries(output: Path, entries: list[Entry]) -> None:
    text = json.dumps(entries, indent=2, default=str, ensure_ascii=False) + "\n"
    # A command line may have bytes that are not UTF-8.
    write_atomically(output / RECORD, text.encode(errors="replace"))


def read_record(output: Path) -> list[Entry]:
    """Return the entries of `run.json` in `output`, oldest first; an empty list if there is no such file.

    Raises:
        UserError: the file cannot be read or is not a record.
    """
    file = output / RECORD
    if not os.path.lexists(file):
        return []
    remedy = "it is not a record of runs; repair it or move it away"
    entries: list[Entry] = read_json(file, list, remedy)
    for number, entry in enumerate(entries, 1):
        if wrong := _wrong_field(entry):
            raise UserError(f"{file} has {wrong} in entry {number}: {remedy}.")
    return entries


def describe_holder(output: Path) -> str:
    """Return the process, host and time of the newest training in the record, for a message; "" if unknown."""
    trainings = [entry for entry in read_record(output) if _run_id(entry) and "process" in entry]
    if not trainings:
        return ""
    newest = trainings[-1]
    host = newest.get("machine", {}).get("host", UNKNOWN)
    return f"process {newest['process']} on {host}, started {newest.get('started', UNKNOWN)}"


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
    """Return the short commit of this package's checkout, ``+dirty`` with local changes.

    Outside git it is the version of this package, such as ``v0.1.0``.
    """
    answer = _git("describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+dirty")
    return f"v{__version__}" if answer is None else answer.decode().strip()


def _git(*words: str) -> bytes | None:
    """Run git in the checkout of this package and return its output; None if there is no checkout or no git."""
    root = Path(d2.__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package may be inside another repository
        return None
    try:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _run_id(entry: Entry) -> str | None:
    """Return the run id of an entry, which older versions call the training; None for an evaluation."""
    run: str | None = entry.get("run", entry.get("training"))
    return run


def _wrong_field(entry: Any) -> str:
    """Return a description of the first field of an entry that is missing or of another form; "" for a good entry."""
    if not isinstance(entry, dict):
        return "no object"
    code, moved = entry.get("code"), entry.get("moved", {})
    checks = {
        "kind": entry.get("kind") in list(Kind),
        "run": _run_id(entry) is None or is_run_id(_run_id(entry)),
        "config": _is_file_name(entry.get("config")),
        "code": isinstance(code, dict) and ("diff" not in code or _is_file_name(code["diff"])),
        "seed": "seed" not in entry or type(entry["seed"]) is int,
        "folder": isinstance(entry.get("folder", ""), str),
        "moved": isinstance(moved, dict) and all(isinstance(name, str) for name in moved.values()),
        "torchrun": isinstance(entry.get("torchrun", ""), str),
        "process": "process" not in entry or type(entry["process"]) is int,
        "machine": isinstance(entry.get("machine", {}), dict),
        "versions": isinstance(entry.get("versions", {}), dict),
        "data": isinstance(entry.get("data", {}), dict),
        "ending": isinstance(entry.get("ending", {}), dict),
    }
    return next((f"no valid {name!r}" for name, good in checks.items() if not good), "")


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name == value and value.isprintable()


def _keep(output: Path, name: str, entries: list[Entry]) -> None:
    """Rename a file of an earlier start, after the number of its entry or 0 if it has none, to free its name."""
    path = output / name
    if not path.exists():
        return
    owners = [n for n, entry in enumerate(entries, 1) if name in (entry["config"], entry["code"].get("diff"))]
    number = owners[-1] if owners else 0
    kept = free_path(output / f"{path.stem}_{number}{path.suffix}").name
    with writing(output / kept):
        path.rename(output / kept)
    if owners:
        entry = entries[number - 1]
        if entry["config"] == name:
            entry["config"] = kept
        else:
            entry["code"]["diff"] = kept
