"""Scalars and images that training produces, and the writers that record them."""

import datetime
import itertools
import logging
import time
from collections import defaultdict
from functools import cached_property
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

_WINDOW = 20  # iterations over which writers take the median of a noisy scalar

_STACK: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Return the innermost open `EventStorage`; AssertionError if none is open."""
    assert _STACK, "get_event_storage() needs an open 'with EventStorage(...)'"
    return _STACK[-1]


class EventStorage:
    """Named scalars, each with the history of its values and iterations."""

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._vis_data: list[tuple[str, Any, int]] = []

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True) -> None:
        """Add a number at the current iteration; `smoothing_hint` marks it as noisy for the writers."""
        hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert hint == smoothing_hint, f"Scalar {name!r} was put with another smoothing_hint before"
        self._history[name].update(float(value), self._iter)
        self._latest[name] = (float(value), self._iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Store an image (3, H, W), RGB, uint8 in 0..255 or float in 0..1, until a writer has recorded it."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def clear_images(self) -> None:
        """Delete the stored images. Called by the writer that recorded them."""
        self._vis_data = []

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of a scalar; KeyError if it has none."""
        if name not in self._history:
            raise KeyError(f"No scalar {name!r} has been put")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return all values of all scalars by name."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value of every scalar and its iteration, by name."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return `latest`, with noisy scalars as their median over the last `window_size` iterations."""
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
        """Return the number of values of a scalar in the last `window_size` iterations up to its newest value."""
        values = self._history[name].values()
        oldest = values[-1][1] - window_size
        return sum(1 for _ in itertools.takewhile(lambda entry: entry[1] > oldest, reversed(values)))

    def smoothing_hints(self) -> dict[str, bool]:
        """Return by name whether a scalar is noisy."""
        return self._smoothing_hints

    @property
    def iter(self) -> int:
        """Current iteration."""
        return self._iter

    @iter.setter
    def iter(self, val: int) -> None:
        self._iter = int(val)

    def __enter__(self) -> "EventStorage":
        _STACK.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert _STACK.pop() is self, "EventStorages were closed in the wrong order"


class EventWriter:
    """Base class of writers, which record the new entries of the open `EventStorage`."""

    def write(self) -> None:
        """Record what was put since the last call."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the files of the writer."""


class TensorboardXWriter(EventWriter):
    """Writes TensorBoard files to the folder `log_dir`."""

    def __init__(self, log_dir: str) -> None:
        self._log_dir = log_dir
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        # TensorBoard takes seconds to import, so it is not imported before there is something to write.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(log_dir=self._log_dir)

    def write(self) -> None:
        """Add the scalars and images that were put since the last call."""
        storage, newest = get_event_storage(), self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        """Close the file if one was opened."""
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line with iteration, losses, times, learning rate, memory and estimated remaining time.

    It reads the scalars `time`, `data_time` and `lr`, and all whose names contain "loss" or "[metric]".
    """

    def __init__(self, max_iter: int) -> None:
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._last_write: tuple[int, float] | None = None  # iteration and clock, for an ETA without a `time` scalar

    def write(self) -> None:
        """Log the line, except after the last iteration."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        parts = [f"eta: {eta}"] if (eta := self._eta(storage)) else []
        parts.append(f"iter: {storage.iter}")
        for mark in ("loss", "[metric]"):
            for name, history in storage.histories().items():
                if mark in name:
                    parts.append(f"{name}: {history.median(storage.count_samples(name, _WINDOW)):.4g}")
        histories = storage.histories()
        if "time" in histories:
            parts += [f"time: {histories['time'].global_avg():.4f}", f"last_time: {histories['time'].latest():.4f}"]
        if "data_time" in histories:
            average = histories["data_time"].avg(storage.count_samples("data_time", _WINDOW))
            parts += [f"data_time: {average:.4f}", f"last_data_time: {histories['data_time'].latest():.4f}"]
        parts.append(f"lr: {histories['lr'].latest():.5g}" if "lr" in histories else "lr: N/A")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(parts))

    def _eta(self, storage: EventStorage) -> str | None:
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
