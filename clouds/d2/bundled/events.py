"""Numbers that training produces, where they are kept, and who writes them down."""

import datetime
import itertools
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

_STACK: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The innermost open `EventStorage`; AssertionError outside of any."""
    assert _STACK, "get_event_storage() needs an open 'with EventStorage(...)'"
    return _STACK[-1]


class EventStorage:
    """Scalars by name, each with the history of its values and iterations."""

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._prefix = ""
        self._vis_data: list[tuple[str, Any, int]] = []

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add a number at the current iteration (or at `cur_iter`); `smoothing_hint` tells writers that it is noisy."""
        name, iteration = self._prefix + name, self._iter if cur_iter is None else cur_iter
        hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert hint == smoothing_hint, f"Scalar {name!r} was put with another smoothing_hint before"
        self._history[name].update(float(value), iteration)
        self._latest[name] = (float(value), iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """`put_scalar` for each keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keep a picture (3,H,W), RGB, uint8 0..255 or float 0..1, until TensorBoard takes it."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def clear_images(self) -> None:
        """Drop the pictures; who wrote them calls this."""
        self._vis_data = []

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar; KeyError if there is none yet."""
        if name not in self._history:
            raise KeyError(f"No scalar {name!r} has been put")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Name -> all values."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Name -> (last value, its iteration)."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`, but the noisy ones as the median over the last `window_size` iterations."""
        return {
            name: (
                self._history[name].median(self.count_samples(name, window_size))
                if self._smoothing_hints[name]
                else value,
                iteration,
            )
            for name, (value, iteration) in self._latest.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values a scalar got in the last `window_size` iterations counted from its newest."""
        values = self._history[name].values()
        oldest = values[-1][1] - window_size
        return sum(1 for _ in itertools.takewhile(lambda entry: entry[1] > oldest, reversed(values)))

    def smoothing_hints(self) -> dict[str, bool]:
        """Name -> whether it is noisy."""
        return self._smoothing_hints

    def step(self) -> None:
        """Go to the next iteration; a trainer sets `iter` instead."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The current iteration."""
        return self._iter

    @iter.setter
    def iter(self, val: int) -> None:
        self._iter = int(val)

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Within it every name gets the prefix `name/`."""
        previous, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = previous

    def __enter__(self) -> "EventStorage":
        _STACK.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert _STACK.pop() is self, "EventStorages were closed in the wrong order"


class EventWriter:
    """Takes what is new from the open `EventStorage`."""

    def write(self) -> None:
        """Write what came since the last call."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the file."""


class JSONWriter(EventWriter):
    """One JSON object a line and iteration: {"iteration": ..., name: value, ...}; appends to an existing file."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = Path(json_file).open("a")  # noqa: SIM115 - open until close()
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Append the scalars put since the last call."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                rows[iteration][name] = value
        for iteration, row in rows.items():
            self._file.write(json.dumps({**row, "iteration": iteration}, sort_keys=True) + "\n")
        self._last_write = max(rows, default=self._last_write)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorboardXWriter(EventWriter):
    """TensorBoard files in `log_dir`; `kwargs` go to `torch.utils.tensorboard.SummaryWriter`."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._window_size = window_size
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import (
            SummaryWriter,
        )  # seconds to import, so not before there is something to write

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        """Add the scalars and pictures put since the last call."""
        storage, newest = get_event_storage(), self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        """Close the file, if there is one."""
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """One log line with iteration, losses, times, learning rate, memory and (given `max_iter`) the time left.

    It reads the scalars `time`, `data_time`, `lr`, all with "loss" and all with "[metric]" in their names.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None  # iteration and clock, for an ETA without a `time` scalar

    def write(self) -> None:
        """Log the line; nothing once training is over."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        parts = [f"eta: {eta}"] if (eta := self._eta(storage)) else []
        parts.append(f"iter: {storage.iter}")
        for mark in ("loss", "[metric]"):
            for name, history in storage.histories().items():
                if mark in name:
                    parts.append(f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}")
        histories = storage.histories()
        if "time" in histories:
            parts += [f"time: {histories['time'].global_avg():.4f}", f"last_time: {histories['time'].latest():.4f}"]
        if "data_time" in histories:
            average = histories["data_time"].avg(storage.count_samples("data_time", self._window_size))
            parts += [f"data_time: {average:.4f}", f"last_data_time: {histories['data_time'].latest():.4f}"]
        parts.append(f"lr: {histories['lr'].latest():.5g}" if "lr" in histories else "lr: N/A")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(parts))

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        remaining = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        now, previous = (storage.iter, time.perf_counter()), self._last_write
        self._last_write = now
        if previous is None or now[0] == previous[0]:
            return None
        return str(datetime.timedelta(seconds=int((now[1] - previous[1]) / (now[0] - previous[0]) * remaining)))
