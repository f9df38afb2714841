"""JSON lines: files with one JSON object per line, such as `metrics.json` and `manifest.jsonl`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clouds.errors import UserError
from clouds.utils.atomic import write_atomically
from clouds.utils.json_files import parse_json

Row = dict[str, Any]


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        start: offset of its first byte in the file.
        end: offset of the next line.
        row: the JSON object; None if the line is not one.
        is_complete: whether it ends with a line break. The last line of a file that is being written may not.
    """

    start: int
    end: int
    row: Row | None
    is_complete: bool


def scan_lines(path: Path) -> Iterator[Line]:
    """Yield every line of a file, damaged ones included; nothing if there is no such file."""
    if not path.is_file():
        return
    start = 0
    with path.open("rb") as file:
        for line in file:
            end = start + len(line)
            yield Line(start, end, _parse(line), line.endswith(b"\n"))
            start = end


def valid_rows(path: Path) -> list[Row]:
    """Return the JSON objects of a file that may be damaged or still be written; other lines are skipped.

    Returns:
        Objects in the order of the file; an empty list if there is no such file.
    """
    return [line.row for line in scan_lines(path) if line.row is not None]


def read_rows(path: Path, remedy: str) -> list[Row]:
    """Return the JSON objects of a file.

    Args:
        path: path of the file.
        remedy: advice about a damaged file, the end of the error message.

    Returns:
        Objects in the order of the file; an empty list if there is no such file.

    Raises:
        UserError: a line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(scan_lines(path), 1):
        if line.row is None:
            raise UserError(f"{path} is damaged in line {number}; {remedy}.")
        rows.append(line.row)
    return rows


def last_row(path: Path) -> Row | None:
    """Return the last JSON object of a file that may still be written, or None if there is none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return None
    rows = (_parse(line) for line in reversed(lines))
    return next((row for row in rows if row is not None), None)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects atomically, one per line."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _parse(line: bytes) -> Row | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
