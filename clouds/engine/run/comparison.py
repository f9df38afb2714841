"""Comparison of two trainings, from the files in their output folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from clouds.config.settings import read_settings
from clouds.engine.checkpointing.weights import read_checkpoint
from clouds.engine.run.metrics import is_timing, read_training
from clouds.engine.run.record import Entry, current_run, read_record
from clouds.errors import UserError

NOTHING = "-"  # shown where one run has no such thing
_WIDTH = 48  # characters of a value in the table

# What a checkpoint holds besides its weights and that is neither of its own run nor in the settings.
_ENTRIES = ("iteration", "seed", "tower_sha256", "classes", "pixel_mean", "pixel_std", "data")


class Difference(NamedTuple):
    """Something that two runs do not have in common.

    Attributes:
        part: part of the runs, such as "settings".
        name: name within this part.
        first: value in the first run.
        second: value in the second run.
    """

    part: str
    name: str
    first: Any
    second: Any


def compare_runs(a: Path, b: Path) -> list[Difference]:
    """Compare the newest trainings in two output folders.

    Returns:
        What differs: settings, code, versions, machine, data, checkpoints, weights, metrics. Names of folders,
        times and ids are left out. Empty if the runs are equal.

    Raises:
        UserError: a folder has no record of a training, or a file cannot be read.
    """
    folders, entries = (a, b), (_newest(a), _newest(b))
    found = _of_mappings("settings", *map(_settings, folders, entries))
    found += _of_mappings("code", *map(_code, folders, entries))
    for part in ("versions", "machine", "data", "ending"):
        found += _of_mappings(part, *(entry.get(part, {}) for entry in entries))
    found += _of_mappings("run", *({key: entry.get(key) for key in ("seed", "processes")} for entry in entries))
    found += _of_mappings("files", *({path.name: "there" for path in folder.glob("model*.pth")} for folder in folders))
    if all((folder / "model_final.pth").is_file() for folder in folders):
        found += _of_checkpoints(*(read_checkpoint(folder / "model_final.pth") for folder in folders))
    return found + _of_metrics(*(read_training(folder / "metrics.json") for folder in folders))


def format_differences(differences: list[Difference], a: Path, b: Path) -> str:
    """Return a table with a row for each difference; one sentence if there is none."""
    if not differences:
        return f"{a} and {b} do not differ."
    rows = [("part", "name", str(a), str(b))]
    rows += [(each.part, each.name, _shown(each.first), _shown(each.second)) for each in differences]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _newest(folder: Path) -> Entry:
    """Return the entry of the newest start of the newest training.

    Raises:
        UserError: there is none.
    """
    run = current_run(folder)
    if run is None:
        raise UserError(f"{folder} has no record of a training, run.json: give the OUTPUT_DIR of a training.")
    return [entry for entry in read_record(folder) if run.id in (entry.get("run"), entry.get("training"))][-1]


def _settings(folder: Path, entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in read_settings(folder / entry["config"]).items() if key != "OUTPUT_DIR"}


def _code(folder: Path, entry: Entry) -> dict[str, Any]:
    """Return the commit and the text of the local changes."""
    code = dict(entry["code"])
    diff = folder / code.pop("diff", "no diff")
    return {**code, "local changes": diff.read_text(errors="replace") if diff.is_file() else ""}


def _of_mappings(part: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    names = sorted(first.keys() | second.keys())
    pairs = ((name, first.get(name, NOTHING), second.get(name, NOTHING)) for name in names)
    return [Difference(part, name, one, other) for name, one, other in pairs if one != other]


def _of_checkpoints(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    chosen = ({key: content[key] for key in _ENTRIES if key in content} for content in (first, second))
    return _of_mappings("checkpoint", *chosen) + _of_weights(first["model"], second["model"])


def _of_weights(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> list[Difference]:
    """Return what tensors only one has, and the largest difference of a value."""
    forms = ({name: f"{t.dtype} {tuple(t.shape)}" for name, t in weights.items()} for weights in (first, second))
    found = _of_mappings("weights", *forms)
    unlike = {each.name for each in found}
    shared = [name for name in first if name not in unlike and not torch.equal(first[name], second[name])]
    if shared:
        gaps = {name: (first[name].double() - second[name].double()).abs().max().item() for name in shared}
        largest = max(gaps, key=gaps.__getitem__)
        what = f"{len(shared)} of {len(first)} tensors, most by {gaps[largest]:.3g}"
        at = (first[largest].double() - second[largest].double()).abs().argmax()
        values = (weights[largest].flatten()[at].item() for weights in (first, second))
        found.append(Difference("weights", f"{what} in {largest}", *values))
    return found


def _of_metrics(first: list[dict[str, float]], second: list[dict[str, float]]) -> list[Difference]:
    """Return the first iteration at which a value differs, with the first value there; times are left out."""
    for number in range(max(len(first), len(second))):
        rows = [_values(rows[number]) if number < len(rows) else {} for rows in (first, second)]
        differing = _of_mappings("metrics", *rows)
        if differing:
            at = next(row["iteration"] for row in rows if row)
            each = next((each for each in differing if each.name.endswith("loss")), differing[0])
            return [each._replace(name=f"{each.name}, first at iteration {at}")]
    return []


def _values(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not is_timing(name)}


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
