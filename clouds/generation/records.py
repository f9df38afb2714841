"""Reading of the records of a generated set: its manifest, its rejected images, its description, and PNG text chunks.

Anybody may have edited, cut or exchanged them, so every field is checked before it is used.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from clouds.errors import UserError
from clouds.generation.plan import MAX_IMAGES, MAX_PROMPTS, image_file_name, image_seed, prompt_of
from clouds.generation.settings import PaintingSettings
from clouds.utils.images import DECODE_ERRORS, is_truncated_png, pillow_errors
from clouds.utils.json_files import parse_json, read_json
from clouds.utils.jsonl import Row, read_rows
from clouds.utils.values import is_integer, is_number

CHUNK = "clouds"
"""Keyword of the PNG text chunk with the record of an image."""
_MAX_SIZE = 10**6  # pixels; beyond any image, and steps and attempts stay below, too

_REMEDY = "restore it from a copy; or delete it, and the set's own command makes it again from the images"
_REMEDY_REJECTED = "restore it from a copy; or delete it, and the rejected images are generated again"

Rule = Callable[[Any], bool]


def _is_int(below: int) -> Rule:
    return lambda value: is_integer(value, high=below - 1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_hex(digits: int) -> Rule:
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_batch(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_int(MAX_IMAGES)(index) for index in value)


_RECORD: dict[str, Rule] = {
    "index": _is_int(MAX_IMAGES),
    "prompt_index": _is_int(MAX_PROMPTS),
    "prompt": _is_text,
    "seed": _is_int(2**63),
    "attempt": _is_int(_MAX_SIZE),
    "batch": _is_batch,
    "height": _is_int(_MAX_SIZE),
    "width": _is_int(_MAX_SIZE),
    "similarity": lambda value: value is None or is_number(value),
    "dhash": _is_hex(16),
}
_MANIFEST = {**_RECORD, "file_name": _is_text, "size": _is_int(2**63), "sha256": _is_hex(64)}
_REJECTED = {**_RECORD, "reason": _is_text}
_RUN: dict[str, Rule] = {"seconds": is_number, "versions": lambda value: isinstance(value, dict)}
_OPTIONAL_SIZE: Rule = lambda value: value is None or _is_int(_MAX_SIZE)(value)  # noqa: E731
_SETTINGS: dict[str, Rule] = {
    **{field.name: _is_text for field in dataclasses.fields(PaintingSettings)},
    "revision": lambda value: value is None or _is_text(value),
    "steps": _is_int(_MAX_SIZE),
    "guidance": is_number,
    "height": _OPTIONAL_SIZE,
    "width": _OPTIONAL_SIZE,
    "fingerprint": _is_text,
    "seed": _is_int(2**63),
}


def read_manifest(path: Path) -> list[Row]:
    """Return the rows of a `manifest.jsonl`; an empty list if there is no such file.

    Raises:
        UserError: the file cannot be read, or a row is damaged, names a file that is not the image of its index, or
            has the index of an earlier row.
    """
    rows = _read_rows(path, _MANIFEST, _REMEDY)
    lines: dict[int, int] = {}
    for line, row in enumerate(rows, 1):
        name = f"images/{image_file_name(row['index'], row['prompt_index'])}"
        if row["file_name"] != name:
            raise UserError(f"{path}, line {line}: file_name is {row['file_name']!r} instead of {name!r}; {_REMEDY}.")
        if row["index"] not in row["batch"]:
            raise UserError(f"{path}, line {line}: index {row['index']} is not in its batch; {_REMEDY}.")
        if (first := lines.setdefault(row["index"], line)) != line:
            raise UserError(f"{path}, line {line}: index {row['index']} is also that of line {first}; {_REMEDY}.")
    return rows


def read_rejected(path: Path) -> list[Row]:
    """Return the rows of a `rejected.jsonl`; an empty list if there is no such file.

    Raises:
        UserError: the file cannot be read, or a row is damaged.
    """
    return _read_rows(path, _REJECTED, _REMEDY_REJECTED)


def read_reasons(path: Path) -> list[str]:
    """Return the reason of each row of a `rejected.jsonl`, whose other fields may be missing.

    Raises:
        UserError: the file cannot be read, or a row has no reason.
    """
    return [row["reason"] for row in _read_rows(path, {"reason": _is_text}, _REMEDY_REJECTED)]


def check_belongs(path: Path, rows: Sequence[Row], prompts: Sequence[str], seed: int) -> None:
    """Check that the rows of a manifest are those of a set with these prompts and this seed.

    Raises:
        UserError: the prompt or the seed of a row is another one.
    """
    for row in rows:
        if not belongs(row, prompts, seed):
            raise UserError(
                f"{path} is the manifest of another set than dataset.json beside it: image {row['index']} has another "
                "prompt or seed; restore both from a copy."
            )


def belongs(row: Mapping[str, Any], prompts: Sequence[str], seed: int) -> bool:
    """Return whether an image has the prompt and the seed of its index in a set.

    Args:
        row: record of the image.
        prompts: prompts of the set.
        seed: seed of the set.
    """
    own = prompt_of(row["index"], prompts), image_seed(seed, row["index"], row["attempt"])
    return own == ((row["prompt_index"], row["prompt"]), row["seed"])


def read_description(path: Path) -> dict[str, Any]:
    """Return the content of a `dataset.json`.

    Raises:
        UserError: the file is missing or damaged, or lacks a field.
    """
    if not path.is_file():
        raise UserError(f"There is no {path}, which records how a generated set was made.")
    remedy = "restore it from a copy"
    content = read_json(path, dict, remedy)
    prompts, runs = content.get("prompts"), content.get("runs")
    wrong = _wrong_fields(content.get("settings"), _SETTINGS, "settings")
    if not (isinstance(prompts, list) and prompts and all(map(_is_text, prompts))):
        wrong.append("prompts")
    if not _is_text(content.get("licence")):
        wrong.append("licence")
    if not isinstance(runs, list):
        wrong.append("runs")
    else:
        wrong += [name for number, run in enumerate(runs) for name in _wrong_fields(run, _RUN, f"runs[{number}]")]
    if wrong:
        raise UserError(f"{path} is damaged, see {_listed(wrong)}: {remedy}.")
    return content


def read_record(data: bytes, *, intact: bool = False) -> Row | None:
    """Return the record in the bytes of a PNG file; None if the image is damaged or has no valid record.

    Args:
        data: the whole file.
        intact: whether the pixels are known to be undamaged, and need not be decoded.
    """
    if is_truncated_png(data):
        return None
    try:
        with pillow_errors(), Image.open(io.BytesIO(data)) as image:
            if not intact:
                image.load()
            record = parse_json(image.info[CHUNK].encode())
    except DECODE_ERRORS:
        return None
    return record if not _wrong_fields(record, _RECORD, "") else None


def _read_rows(path: Path, rules: Mapping[str, Rule], remedy: str) -> list[Row]:
    rows = read_rows(path, remedy)
    for line, row in enumerate(rows, 1):
        if wrong := _wrong_fields(row, rules, ""):
            raise UserError(f"{path} is damaged in line {line}, see {_listed(wrong)}; {remedy}.")
    return rows


def _wrong_fields(content: Any, rules: Mapping[str, Rule], name: str) -> list[str]:
    """Return the names of the fields that are missing or break their rule; `name` if there are no fields."""
    if not isinstance(content, dict):
        return [name or "all"]
    prefix = f"{name}." if name else ""
    return [f"{prefix}{key}" for key, fits in rules.items() if key not in content or not fits(content[key])]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
