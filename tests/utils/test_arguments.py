"""Argument types: the texts they accept and the message for all others."""

import argparse
import math

import pytest

from clouds.utils.arguments import add_processes, non_negative_float, non_negative_int, positive_float, positive_int


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive_int, "1", 1),
        (non_negative_int, "0", 0),
        (positive_float, "1e-3", 0.001),
        (non_negative_float, "0", 0.0),
    ],
)
def test_values(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        (positive_int, ("0", "-1", "1.5", "x", ""), "must be a whole number of at least 1, not "),
        (non_negative_int, ("-1", "0.5"), "must be a whole number of at least 0, not "),
        (positive_float, ("0", "-1", "nan", "inf", "x"), "must be a number above 0, not "),
        (non_negative_float, ("-0.1", "nan", "inf"), "must be a number of at least 0, not "),
    ],
)
def test_other_texts(kind, texts, message):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as error:
            kind(text)
        assert str(error.value) == f"{message}{text!r}"


def test_number_of_processes(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_processes(parser)
    assert 1 <= parser.parse_args([]).nproc < math.inf
    assert parser.parse_args(["--nproc", "3"]).nproc == 3
    with pytest.raises(SystemExit):
        parser.parse_args(["--nproc", "0"])
    assert "argument --nproc: must be a whole number of at least 1, not '0'" in capsys.readouterr().err
