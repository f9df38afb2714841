"""Reading of YAML files: values as in YAML 1.1, and one sentence for everything that is not a plain tree."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.errors import UserError
from clouds.utils.yaml_files import parse_yaml, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{previous}'] * 10)}]\n"
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True)
)

REJECTED = {
    "a: 1\nb: 2\na: 3": r"has the key a twice, on lines 1 and 3",
    "a:\n  b: 1\n  c: [{d: 1}, {d: 1, 'd': 2}]": "has the key d twice, on lines 3 and 3",
    "<<: {a: 1}\n<<: {a: 2}": "has the key << twice",
    "&a [*a]": "line 1: a value refers to itself",
    "a:\n  - &b {c: [*b]}": "line 2: a value refers to itself",
    "a: &b {<<: *b}": "line 1: a value refers to itself",
    BOMB: "line .: there are more than 100000 values",
    "[" * 60 + "]" * 60: "line 1: values are nested deeper than 50 levels",
    "[" * 20_000: "nested too deeply",
    "{a: " * 20_000: "nested too deeply",
    "- " * 20_000: "nested too deeply",
    "a: [1, 2": "line 1: while parsing a flow sequence",
    "a:\n\tb: 1": r"line 2: .* character '\\t'",
    "a: 1\n---\nb: 2": "line 2: expected a single document",
    "a: *b": "undefined alias 'b'",
    "a\0: 1": r"character 2 is '\\x00', a control character",
    "a: \x1b[31m": r"'\\x1b', a control character",
    "1: a": "line 1: the key 1 is not a text: put it in quotes",
    "yes: a": "the key yes is not a text",
    "? [a]\n: 1": "a key is not a text",
    "?": "the key null is not a text",
    "a: !!set {b}": "the tag !!set is not supported",
    "a: !!binary aGk=": "the tag !!binary is not supported",
    "a: !!timestamp 2026-11-27": "the tag !!timestamp is not supported",
    "a: !!python/object/apply:os.getpid []": "the tag !!python/object/apply:os.getpid is not supported",
    "a: !own b": "the tag !own is not supported",
    "a: !!seq {}": "the tag !!seq is not supported",
    "a: !!int b": "'b' is no int",
    "a: !!int ''": "'' is no int",
    "a: !!bool b": "'b' is no bool",
    "a: 0x_": "'0x_' is no int",
    f"a: {'1' * 5000}": "more than 100 digits",
    f"a: 0x{'f' * 5000}": "more than 100 digits",
    f"a: 1{':59' * 5000}": "more than 100 digits",
}


@pytest.mark.parametrize("text", REJECTED, ids=lambda text: repr(text[:30]))
def test_rejected(text):
    with pytest.raises(UserError, match=f"^Config file x.yaml.*{REJECTED[text]}"):
        parse_yaml(text, "Config file x.yaml")


def test_values_are_those_of_yaml_1_1():
    text = "a: yes\nb: 1e-4\nc: 1.0e-4\nd: 1_0\ne: .inf\nf: 2026-11-27\ng: =\nh: ~\ni: 010\nj: [1, 'b']\n'1': 2\n"
    assert parse_yaml(text, "x") == dict(
        **{"1": 2}, a=True, b="1e-4", c=1e-4, d=10, e=math.inf, f="2026-11-27", g="=", h=None, i=8, j=[1, "b"]
    )


def test_aliases_and_merge_keys():
    text = "a: &a {b: 1, c: 2}\nd: *a\ne: {<<: *a, c: 3}\n"
    assert parse_yaml(text, "x") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 2}, "e": {"b": 1, "c": 3}}


def test_empty_text():
    assert parse_yaml("# nothing\n", "x") is None


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(PLAIN)
def test_a_dump_is_read_again(tree):
    assert parse_yaml(yaml.safe_dump(tree, allow_unicode=False), "x") == tree


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from([*"[]{}:,-?&*!|>%@`'\"#ab1 \n\t\0\x85", "<<", "!!int ", "---\n", "0x", "\ud800"]), max_size=14
    )
)
def test_any_text_is_read_or_rejected(parts):
    try:
        parse_yaml("".join(parts), "x")
    except UserError as error:
        assert str(error).startswith("x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \xff", "is not YAML: byte 4 is not UTF-8"),
        ("a: 1".encode("utf-16"), "byte 1 is not UTF-8"),
        (b"PK\x03\x04\x00", "a control character"),
        (b"#" * 1_000_001, "is larger than 1 MB"),
    ],
)
def test_other_files(tmp_path, content, message):
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"^Data set {file}.*{message}"):
        read_yaml(file, "Data set")


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "absent.yaml", tmp_path / "a\0b", tmp_path / ("a" * 5000)):
        with pytest.raises(UserError, match=r"^Data set .* cannot be read"):
            read_yaml(path, "Data set")


def test_byte_order_mark(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "x.yaml", "Data set") == {"a": 1}
