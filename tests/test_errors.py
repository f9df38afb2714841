"""Messages for the user are one line of bounded length without control characters."""

import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.commands.entry import user_errors
from clouds.errors import MESSAGE_LENGTH, UserError, machine_error, one_line


@given(st.text(max_size=700) | st.text(st.sampled_from("a\n\u2028\u202e\x1b\x85\udcff"), max_size=700))
def test_any_text_becomes_one_line(text):
    line = one_line(text)
    assert len(line) <= MESSAGE_LENGTH
    assert line.isprintable()
    assert one_line(line) == line


def test_ordinary_texts_are_kept():
    for text in ("Größe 3 must be 1 or more.", "影像/a b.png: 'c'", "x" * MESSAGE_LENGTH):
        assert one_line(text) == text


def test_control_characters_are_shown():
    assert str(UserError("a\nb\r\x1b[31m\u202ec\u2028\0\udcff\U000e0001")) == (
        r"a\nb\r\x1b[31m\u202ec\u2028\x00\udcff\U000e0001"
    )


@pytest.mark.parametrize("letter", ["x", "\n", "\U000e0001"])
def test_the_middle_of_a_long_text_is_left_out(letter):
    line = one_line(f"Config file {letter * 100_000}: remove the line.")
    assert line.startswith("Config file ")
    assert line.endswith(": remove the line.")
    assert " [...] " in line
    assert len(line) <= MESSAGE_LENGTH


def test_an_error_survives_another_process():
    error = pickle.loads(pickle.dumps(UserError("a\n" * 1000)))
    assert (type(error), str(error)) == (UserError, one_line("a\n" * 1000))


def test_a_command_prints_one_line(capsys):
    def fail(error: Exception) -> int:
        raise error

    missing = ModuleNotFoundError("No module named 'torch'\n" + "x" * 1000, name="torch")
    for error in (UserError("a\nb"), missing):
        assert user_errors(fail)(error) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert len(line) <= len("error: ") + MESSAGE_LENGTH


CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes. Error code 12"
GPU = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"


@pytest.mark.parametrize(
    ("allocate", "size"),
    [
        (lambda: torch.empty(2**60), "4611686018427387904 bytes"),
        (lambda: np.empty(2**50), "8.00 PiB"),
        (lambda: _raise(RuntimeError(f"Caught RuntimeError in a worker. {CPU}")), "80 bytes"),
        (lambda: _raise(torch.OutOfMemoryError(GPU)), "20.00 GiB"),
        (lambda: _raise(RuntimeError("unable to allocate 80 bytes: Cannot allocate memory (12)")), "80 bytes"),
    ],
)
def test_a_lack_of_memory_is_one_sentence(allocate, size, sentence):
    said = sentence(user_errors(lambda argv: allocate() is None))
    assert said.startswith(
        f"The memory is not sufficient for further {size}: lower the number or the size of the images"
    )


def test_other_runtime_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a defect"):
        user_errors(lambda: _raise(RuntimeError("a defect")))()


def _raise(error: Exception) -> None:
    raise error


def test_opencv_tells_in_its_text():
    error = cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 8 bytes")
    assert str(machine_error(error)).startswith("The memory is not sufficient for further 8 bytes: ")
    assert machine_error(cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-5:Bad argument)")) is None
