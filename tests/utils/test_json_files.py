"""JSON from files is read strictly, and every defect is one error with a short reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.errors import UserError
from clouds.utils.json_files import MAX_DEPTH, parse_json, read_json

scalars = (
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(scalars | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))

DAMAGED = [
    (b"", "it is empty"),
    (b" \n", "it is empty"),
    (b'{"a": 1', "in line 1, column 8"),
    (b'{"a": 1} 2', "Extra data"),
    (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    (b'\xff\xfe{\x00"\x00', "not UTF-8 text at byte 0"),
    ('{"a": 1}'.encode("utf-16-le"), "in line 1"),  # json itself guesses this encoding
    (b'{"a": "\xe4"}', "not UTF-8 text at byte 7"),
    (b'{"a": NaN}', "NaN is not a number"),
    (b'{"a": [-Infinity]}', "-Infinity is not a number"),
    (b'{"a": 1e999}', "the number 1e999 is too large"),
    (b'{"a": -1e999}', "the number -1e999 is too large"),
    (b'{"a": ' + b"9" * 400 + b"}", "the number 99999999999999999999 is too large"),
    (b'{"a": ' + b"9" * 5000 + b"}", "the number 99999999999999999999 is too large"),
    (b'{"a": {"b": 1, "b": 1}}', "the key 'b' twice"),
    (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    (b'{"\\uDFFF": 1}', "half of a surrogate pair"),
    (b"[" * 100_000, "more than 100 deep"),
    (b'{"a":' * 100_000, "more than 100 deep"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "more than 100 deep"),
]


@pytest.mark.parametrize(("data", "reason"), DAMAGED, ids=[reason for _, reason in DAMAGED])
def test_a_damaged_text_is_one_error_with_a_short_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as found:
        parse_json(data)
    assert len(str(found.value)) < 100
    file = tmp_path / "some.json"
    file.write_bytes(data)
    with pytest.raises(UserError, match=rf"some\.json is damaged, .*{reason}.*: write it again\.$"):
        read_json(file, dict, "write it again")


@given(data=st.binary())
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    try:
        value = parse_json(data)
    except ValueError:
        return
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(value=values, ascii_only=st.booleans())
def test_a_value_comes_back_as_written(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def test_the_deepest_value_is_read_and_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b'["\\ud83d\\ude97", "\\\\ud800"]') == ["\U0001f697", "\\ud800"]


def test_a_file_holds_the_expected_kind(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_text("[1]")
    assert read_json(file, list, "") == [1]
    with pytest.raises(UserError, match=r"some\.json does not hold a JSON object: repair it\.$"):
        read_json(file, dict, "repair it")
    with pytest.raises(UserError, match=r"none\.json cannot be read \(No such file or directory\): write it\.$"):
        read_json(tmp_path / "none.json", list, "write it")
