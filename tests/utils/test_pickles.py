"""Pickles of plain values and NumPy arrays are read, and nothing in them runs."""

import collections
import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.utils.pickles import RefusedPickle, read_pickle
from clouds.utils.torch_files import read_tensors

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f8"),
    "scalar": np.array(3, dtype=np.int64),
    "empty": np.zeros((0, 2), np.float16),
    "bool": np.array([True, False]),
}
PLAIN = {
    "author": "x",
    "number": np.float64(2.5),
    "bytes": b"\xff",
    "list": [1, (2, None)],
    "od": collections.OrderedDict(a=1),
}


def written(folder: Path, value: Any, protocol: int = 2) -> Path:
    path = folder / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_values_come_back(tmp_path: Path, protocol: int) -> None:
    path = written(tmp_path, {"model": ARRAYS, **PLAIN}, protocol)
    read = read_pickle(path)
    assert {name: each for name, each in read.items() if name != "model"} == PLAIN
    for name, array in ARRAYS.items():
        assert read["model"][name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read["model"][name], array)
    tensors = read_tensors(path)["model"]
    assert all(torch.equal(tensors[name], torch.from_numpy(read["model"][name])) for name in ARRAYS)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    # Texts and bytes were one type, and protocol 0 writes them with escapes.
    path = tmp_path / "x.pkl"
    path.write_bytes(
        b"(dp0\nS'w'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntbs."
    )
    np.testing.assert_array_equal(read_pickle(path)["w"], np.array([1, 2], np.float32))


class Trap:
    """An object whose pickle creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_does_not_run(tmp_path: Path) -> None:
    for value in (Trap(tmp_path / "touched"), {"model": {"w": Trap(tmp_path / "touched")}}):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(RefusedPickle, match=r"^it asks for posix\.system$"):
                read_pickle(written(tmp_path, value, protocol))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.array([{}], dtype=object), "an array of the type object"),
        (np.zeros(2, "i4,f8"), "an array of the type"),
        (np.array(["a"]), "an array of the type <U1"),
        (collections.Counter("ab"), r"asks for collections\.Counter"),
        (Path("a"), r"asks for pathlib\.PosixPath"),
        (torch.ones(2), r"asks for torch\._utils\._rebuild_tensor_v2"),
    ],
)
def test_other_objects_are_refused(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(RefusedPickle, match=says):
        read_pickle(written(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\ndtype\n}(S'x'\nI1\nub.",  # attributes for a stand-in
        b"cnumpy\ndtype\n(S'f4'\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb(ccollections\nOrderedDict\nI3\nt.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1000000000\ntS'f4'\nI00\nS'a'\ntb.",
        b"P1\n.",  # an object outside the file
        b"",
        b"\x80",
        b"not a pickle",
    ],
)
def test_crafted_bytes_are_an_error_or_plain(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    try:
        read_pickle(path)
    except ValueError as error:
        assert len(str(error)) < 100
    # A stand-in that a file has changed is as it was for the next file.
    assert read_pickle(written(tmp_path, {"w": np.ones(2)}))["w"].tolist() == [1, 1]


@given(st.data())
def test_damaged_pickles_raise_a_value_error_only(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(pickle.dumps({"model": ARRAYS, **PLAIN}, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(content)
    with contextlib.suppress(ValueError, MemoryError):
        read_pickle(path)


def test_arrays_in_a_file_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.ones(2), "a": ARRAYS["matrix"]}, "best": np.float64(0.5)}, path)
    read = read_tensors(path)
    assert read["best"] == 0.5
    assert read["model"]["a"].tolist() == ARRAYS["matrix"].tolist()
