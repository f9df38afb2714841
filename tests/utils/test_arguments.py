"""Argument types: the texts they accept and the message for all others, in one line."""

import argparse

import pytest

from clouds.errors import MESSAGE_LENGTH
from clouds.utils.arguments import (
    CommandParser,
    add_processes,
    float_from,
    int_from,
    non_negative_float,
    non_negative_int,
    pixels,
    positive_float,
    positive_int,
    seed,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive_int, "1", 1),
        (positive_int, "1000000000", 10**9),
        (non_negative_int, "0", 0),
        (positive_float, "1e-3", 0.001),
        (non_negative_float, "0", 0.0),
        (seed, str(2**63 - 1), 2**63 - 1),
        (int_from(-1, 64), "-1", -1),
        (float_from(0, 1, above=True), "1", 1.0),
        (float_from(-1, 1), "-1", -1.0),
    ],
)
def test_values(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        (
            positive_int,
            ("0", "-1", "1.5", "x", "", "True", "1000000001", "1" * 5000),
            "must be a whole number from 1 to 1,000,000,000, not ",
        ),
        (non_negative_int, ("-1", "0.5", "nan"), "must be a whole number from 0 to 1,000,000,000, not "),
        (
            positive_float,
            ("0", "-1", "nan", "inf", "x", "1e300", "-inf"),
            "must be a number above 0, up to 1,000,000,000, not ",
        ),
        (non_negative_float, ("-0.1", "nan", "inf", "1j"), "must be a number from 0 to 1,000,000,000, not "),
        (pixels, ("0", "16385"), "must be a whole number from 1 to 16,384, not "),
        (float_from(0, 1, above=True), ("0", "1.01", "nan"), "must be a number above 0, up to 1, not "),
    ],
)
def test_other_texts(kind, texts, message):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as error:
            kind(text)
        assert str(error.value) == f"{message}{text!r}"


def failure(parser, capsys, *words):
    """The one line that a parser prints before it exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert len(line) <= MESSAGE_LENGTH + len("error: ")
    assert line.isprintable()
    return line


def test_number_of_processes(capsys):
    parser = CommandParser()
    add_processes(parser)
    assert parser.parse_args([]).nproc >= 1
    assert parser.parse_args(["--nproc", "3"]).nproc == 3
    for text in ("0", "100000"):
        line = failure(parser, capsys, "--nproc", text)
        assert f"argument --nproc: must be a whole number from 1 to 1,024, not '{text}'; see " in line


@pytest.mark.parametrize(
    "words", [["--no-such"], ["a\nb", "c"], ["--number", "x" * 5000], ["--number"], ["--choice", "\x1b"]]
)
def test_errors_are_one_line(words, capsys):
    parser = CommandParser("Two\nlines")
    parser.add_argument("--number", type=int)
    parser.add_argument("--choice", choices=("a", "b"))
    assert failure(parser, capsys, *words).endswith("--help")
    assert "Two\nlines" in parser.format_help()


def test_arguments_of_a_parent():
    parent = argparse.ArgumentParser()
    parent.add_argument("--number", type=int)
    parser = CommandParser(parents=[parent])
    assert parser.parse_args(["--number", "3"]).number == 3
    assert "--number" in parser.format_help()
