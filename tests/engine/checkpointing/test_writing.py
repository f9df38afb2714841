"""Checkpoints are copied by the caller and written by a thread: order, memory, failures."""

import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clouds.engine.checkpointing.checkpoint import Checkpointer
from clouds.engine.checkpointing.weights import frozen_keys
from clouds.engine.run.record import Run
from clouds.errors import WriteError
from tests.engine.checkpointing.mutations import Training, write

TIMEOUT = 60.0  # seconds


class Gate:
    """Stands in for `torch.save`: keeps what is written, and waits until it is opened."""

    def __init__(self, save: Callable[..., None]) -> None:
        self.save = save
        self.reached, self.opened = threading.Semaphore(0), threading.Event()
        self.contents: list[dict[str, Any]] = []

    def __call__(self, content: dict[str, Any], file: Any) -> None:
        self.contents.append(content)
        self.reached.release()
        assert self.opened.wait(TIMEOUT)
        self.save(content, file)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(torch.save)
    monkeypatch.setattr(torch, "save", gate)
    yield gate
    gate.opened.set()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def test_the_file_holds_the_moment_of_the_call(tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "twin").mkdir()
    twin, training = Training(tmp_path / "twin"), Training(tmp_path)
    training.save_beside("model_0000001", iteration=1)
    assert gate.reached.acquire(timeout=TIMEOUT)
    for _ in range(3):  # the training goes on
        training.step()
        training.teacher.update(training.model)
    training.parts["counts"].state["fates"] += 1
    training.parts["data"].state["position"] = 99
    assert not (tmp_path / "model_0000001.pth").exists()
    gate.opened.set()
    training.checkpointer.wait()
    twin.save("model_0000001", iteration=1)
    files = (torch.load(folder / "model_0000001.pth", weights_only=True) for folder in (tmp_path, tmp_path / "twin"))
    assert same(*files)
    training.resume()
    twin.resume()
    assert same(training.state(), twin.state())


def test_frozen_tensors_are_not_copied_and_others_once(tmp_path: Path, gate: Gate) -> None:
    gate.opened.set()
    model = nn.Module()
    model.backbone = nn.Linear(3, 3).requires_grad_(False)
    model.head = nn.Linear(3, 3)
    model.same = model.head  # tied weights have two names
    write(Checkpointer(model, str(tmp_path), save_frozen=True), "m")
    own, (content,) = model.state_dict(), gate.contents
    assert content["model"].keys() == own.keys()
    referenced = {key for key in own if content["model"][key].data_ptr() == own[key].data_ptr()}
    assert referenced == frozen_keys(model) == {"backbone.weight", "backbone.bias"}
    assert content["model"]["head.weight"].data_ptr() == content["model"]["same.weight"].data_ptr()
    assert (tmp_path / "m.pth").stat().st_size < 5000


def test_one_file_at_a_time(tmp_path: Path, gate: Gate) -> None:
    training = Training(tmp_path)
    training.save_beside("model_0000001", iteration=1)
    assert gate.reached.acquire(timeout=TIMEOUT)
    later = threading.Thread(target=training.save_beside, args=("model_0000002",), kwargs={"iteration": 2})
    later.start()
    later.join(0.1)
    assert later.is_alive(), "it waits for the first"
    assert len(gate.contents) == 1
    gate.opened.set()
    later.join(TIMEOUT)
    training.checkpointer.wait()
    assert [content["iteration"] for content in gate.contents] == [1, 2]
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000001.pth", "model_0000002.pth"]


@pytest.mark.parametrize("how", ["wait", "raise_failure", "the next save", "resume"])
def test_a_failure_is_raised_once(tmp_path: Path, how: str) -> None:
    training = Training(tmp_path)
    training.save("model_0000001", iteration=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        training.save_beside("model_0000002", iteration=2)
        training.checkpointer._writing.join()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(WriteError, match=r"model_0000002\.pth cannot be written") as caught:
        {
            "wait": training.checkpointer.wait,
            "raise_failure": training.checkpointer.raise_failure,
            "the next save": lambda: training.save("model_0000003", iteration=3),
            "resume": training.resume,
        }[how]()
    assert caught.value.filename == str(tmp_path / "model_0000002.pth")
    training.checkpointer.raise_failure()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    training.save("model_0000003", iteration=3)
    assert training.resume()["iteration"] == 3, "there is room again"


def test_a_file_that_is_being_written_is_no_failure(tmp_path: Path, gate: Gate) -> None:
    training = Training(tmp_path)
    training.save_beside("model_0000001", iteration=1)
    training.checkpointer.raise_failure()
    assert not (tmp_path / "model_0000001.pth").exists(), "it does not wait"
    gate.opened.set()
    assert training.resume()["iteration"] == 1, "this does"


@settings(max_examples=25)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True).map(sorted),
    keep=st.integers(1, 3),
    period=st.integers(0, 5),
)
def test_those_at_the_period_are_kept_apart(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], keep: int, period: int
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    model = nn.Linear(1, 1)
    for number in numbers:
        write(Checkpointer(model, str(folder), keep=keep, period=period), f"model_{number:07d}", iteration=number)
    periodic = [number for number in numbers if period and (number + 1) % period == 0]
    kept = {*numbers[-keep:], *periodic[-keep:]}
    assert {int(path.stem[-7:]) for path in folder.glob("*.pth")} == kept


class TestBest:
    """`model_best.pth` has weights with their score; the rotation and `last_checkpoint` leave it alone."""

    @pytest.fixture
    def training(self, tmp_path: Path) -> Training:
        training = Training(tmp_path, keep=1)
        training.checkpointer.identity = {"run": "20261128-000000-0001", "settings": {}}
        training.checkpointer.run = Run("20261128-000000-0001")
        training.save("model_0000001", iteration=1)
        training.checkpointer.save_best(61.5, "val", training.model, iteration=1)
        training.checkpointer.wait()
        return training

    def test_content(self, tmp_path: Path, training: Training) -> None:
        content = torch.load(tmp_path / "model_best.pth", weights_only=True)
        assert same(content["model"], training.model.state_dict())
        assert (content["score"], content["selected_on"], content["iteration"]) == (61.5, "val", 1)
        assert not content.keys() & training.parts.keys(), "weights alone"
        assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
        assert training.checkpointer.read_best()["score"] == 61.5

    def test_it_stays(self, tmp_path: Path, training: Training) -> None:
        for number in (2, 3):
            training.save(f"model_{number:07d}", iteration=number)
        assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000003.pth", "model_best.pth"]
        assert training.resume()["iteration"] == 3

    def test_that_of_another_run_or_a_damaged_one_counts_for_nothing(self, tmp_path: Path, training: Training) -> None:
        training.checkpointer.run = Run("20261128-000000-0002")
        assert training.checkpointer.read_best() == {}
        training.checkpointer.run = Run("20261128-000000-0001")
        assert training.checkpointer.read_best()["score"] == 61.5
        (tmp_path / "model_best.pth").write_bytes(b"half")
        assert training.checkpointer.read_best() == {}
        (tmp_path / "model_best.pth").unlink()
        assert training.checkpointer.read_best() == {}
