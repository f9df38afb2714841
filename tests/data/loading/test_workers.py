"""Workers that are killed, stopped or end by themselves: equal batches, or one sentence."""

import gc
import itertools
import logging
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from clouds.data.loading.loaders import TestLoader, TrainLoader
from clouds.data.loading.samplers import TrainingSampler
from clouds.errors import UserError

pytestmark = pytest.mark.slow

Kind = Callable[..., TrainLoader | TestLoader]
RECORDS = [{"file_name": f"{number}.png", "number": number} for number in range(40)]


def draw(record: dict, rng: np.random.Generator) -> dict:
    return {**record, "image": torch.from_numpy(rng.random((3, 8, 8)))}


def read(record: dict) -> dict:
    return {**record, "image": torch.full((3, 8, 8), record["number"])}


def training(mapper: Callable = draw, position: int = 6, **options: Any) -> TrainLoader:
    return TrainLoader(RECORDS, mapper, TrainingSampler(40, 5, position=position), batch_size=2, **options)


def evaluation(mapper: Callable = read, **options: Any) -> TestLoader:
    return TestLoader(RECORDS, mapper, **options)


def content(batches: Iterator[list[dict]], count: int = 12) -> list[tuple[int, bytes]]:
    flat = itertools.chain.from_iterable(itertools.islice(batches, count))
    return [(sample["number"], sample["image"].numpy().tobytes()) for sample in flat]


def workers() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


@pytest.fixture(autouse=True)
def _no_workers() -> Iterator[None]:
    assert not workers()
    yield
    gc.collect()  # a caught exception holds the iterator
    assert not workers(), "all have ended"


def disturb(number: int, count: int) -> None:
    for pid in workers()[:count]:
        os.kill(pid, number)


@pytest.mark.parametrize("loader", [training, evaluation])
@pytest.mark.parametrize(("number", "count"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
def test_workers_are_started_again_once(
    loader: Kind, number: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = content(iter(loader()), 20)
    # A worker that is killed is noticed at once. New ones need seconds where a process takes long to be copied.
    batches = iter(loader(num_workers=2, patience=10.0 if number == signal.SIGSTOP else 60.0, setting="KEY"))
    got = content(batches, 3)
    disturb(number, count)
    got += content(batches, 9)
    assert got == undisturbed[: len(got)], "each batch once, in order, the same views"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "2 worker(s) that load images for process 0" in warning
    assert warning.endswith(": all are started again, once")

    disturb(number, count)
    with pytest.raises(UserError, match="for the second time") as caught:
        content(batches, 20)
    said = str(caught.value)
    assert said.endswith("then start again, a training with --resume.")
    if number == signal.SIGKILL:
        assert "was ended by SIGKILL, probably because the machine has too little memory" in said
        assert "lower KEY from 2, then" in said
    else:
        assert re.search(r"have not sent (\d+\.png(, )?)+ for 10 s", said)
    assert not workers()


def test_the_position_counts_what_was_handed_out() -> None:
    loader = training(num_workers=1)
    batches = iter(loader)
    content(batches, 3)
    disturb(signal.SIGKILL, 1)
    content(batches, 4)
    assert loader.state_dict() == {"position": 6 + 2 * 7, "seed": 5}


def test_a_worker_that_dies_does_not_interrupt_the_main_thread() -> None:
    batches = iter(training(num_workers=1))
    next(batches)
    disturb(signal.SIGKILL, 1)
    end = time.monotonic() + 1
    while time.monotonic() < end:  # torch's own handler would raise here
        pass
    assert len(content(batches, 3)) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_are_left_to_the_parent(number: int, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = content(iter(training()), 12)
    batches = iter(training(num_workers=2))
    got = content(batches, 2)
    disturb(number, 2)
    assert got + content(batches, 10) == undisturbed
    assert not caplog.records


def leave(record: dict, rng: np.random.Generator) -> dict:
    if record["number"] == 7:
        os._exit(3)
    return draw(record, rng)


def test_an_image_that_ends_every_worker() -> None:
    with pytest.raises(UserError, match="was ended by exit code 3, for the second time: see why with num_workers 0"):
        content(iter(training(leave, num_workers=1)), 30)


def fail(record: dict) -> dict:
    raise RuntimeError("a defect of ours")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_defect_is_raised_at_once(num_workers: int, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="a defect of ours") as caught:
        list(evaluation(fail, num_workers=num_workers))
    assert not isinstance(caught.value, UserError)
    assert not caplog.records


def wait(record: dict) -> dict:
    time.sleep(3 if record["number"] == 2 else 0)
    return read(record)


def test_an_image_that_takes_long_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    assert content(iter(evaluation(wait, num_workers=1)), 5) == content(iter(evaluation()), 5)
    assert not caplog.records
