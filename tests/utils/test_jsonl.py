"""JSON lines come back as written; readers differ only in what they do about damaged lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.errors import UserError
from clouds.utils.jsonl import last_row, read_rows, scan_lines, valid_rows, write_rows

values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
row_lists = st.lists(st.dictionaries(st.text(), values | st.lists(values), max_size=4), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jsonl")


@given(rows=row_lists)
def test_rows_come_back_as_written(folder: Path, rows: list[dict[str, Any]]) -> None:
    # Text may hold line separators other than \n, which JSON leaves as they are.
    path = folder / "rows.jsonl"
    write_rows(path, rows)
    assert read_rows(path, "") == valid_rows(path) == rows
    assert last_row(path) == (rows[-1] if rows else None)


@given(rows=row_lists.filter(len), cut=st.integers(1, 30))
def test_lines_are_located_and_an_unfinished_one_is_marked(folder: Path, rows: list[dict[str, Any]], cut: int) -> None:
    path = folder / "rows.jsonl"
    write_rows(path, rows)
    content = path.read_bytes()[:-cut]
    path.write_bytes(content)
    lines = list(scan_lines(path))
    assert b"".join(content[line.start : line.end] for line in lines) == content
    assert [line.is_complete for line in lines[:-1]] == [True] * (len(lines) - 1)
    assert not lines or lines[-1].is_complete == content.endswith(b"\n")
    assert [line.row for line in lines if line.is_complete] == rows[: content.count(b"\n")]


def test_damaged_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(b'{"a": 1}\n\n[2]\n\xff\xfe\n{"a": 3}\n{"a": ')
    assert valid_rows(path) == [{"a": 1}, {"a": 3}]
    assert last_row(path) == {"a": 3}
    with pytest.raises(UserError, match=r"metrics\.json is damaged in line 2; delete it\.$"):
        read_rows(path, "delete it")


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert (
        read_rows(tmp_path / "none", "") == valid_rows(tmp_path / "none") == list(scan_lines(tmp_path / "none")) == []
    )
    assert last_row(tmp_path / "none") is None


def test_a_last_line_without_line_break_counts(tmp_path: Path) -> None:
    path = tmp_path / "by_hand.jsonl"
    path.write_text(json.dumps({"a": 1}))
    assert read_rows(path, "") == [{"a": 1}]
