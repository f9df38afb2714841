"""Alternating measurement of several sides, each in a process of its own.

A process of its own gives each side what its users have: our settings of malloc or of linear layers do not help the
peer, and peak memory is that of one side.
"""

import contextlib
import cProfile
import ctypes
import gc
import importlib
import pstats
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from clouds.utils.memory import keep_freed_memory
from rows import ONE_BY_ONE, OURS, Sizes

END = "end"
PREPARE = "prepare"  # name of the side that makes the inputs of the others


class NotMeasured(Exception):
    """A side cannot be measured on this machine; the message says why."""


@dataclass(frozen=True)
class Times:
    """Repetitions of one side, seconds.

    Attributes:
        processor: processor time of each repetition, of all threads.
        wall: time by the clock.
        memory: peak of resident memory above that before the first call, MiB; None where the system does not tell.
    """

    processor: list[float]
    wall: list[float]
    memory: float | None


class Side:
    """A side of a row in a process of its own."""

    def __init__(self, context: BaseContext, module: str, name: str, sizes: Sizes, threads: int) -> None:
        self.name = name
        self._connection, theirs = context.Pipe()
        arguments = (theirs, module, name, dict(sizes), threads)
        self._process = context.Process(target=serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until the side is built; raises `NotMeasured`."""
        self._answer()

    def ask(self, command: str) -> Any:
        """Return the answer to "run", "result" or "peak", or a profile of "time" or "memory"."""
        self._connection.send(command)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):  # it has ended
            self._connection.send(END)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except EOFError:
            self._process.join(10)
            raise RuntimeError(f"{self.name}: the process ended with code {self._process.exitcode}") from None
        if kind == "not measured":
            raise NotMeasured(value)
        if kind == "error":
            raise RuntimeError(f"{self.name}:\n{value}")
        return value


def serve(connection: Connection, module: str, name: str, sizes: dict[str, Any], threads: int) -> None:
    """Build a side and answer commands until `END`. Runs in the side's process."""
    try:
        torch.set_num_threads(threads)

        if name in (OURS, ONE_BY_ONE):
            keep_freed_memory()  # as the commands do when they start
        row = importlib.import_module(f"rows.{module}")
        call = partial(row.prepare, sizes) if name == PREPARE else row.SIDES[name](sizes)
        memory = Memory()
        connection.send(("ready", None))
        result: Any = None
        while (command := connection.recv()) != END:
            if command == "run":
                wall, processor = time.perf_counter(), processor_time()
                result = call()
                connection.send(("time", (processor_time() - processor, time.perf_counter() - wall)))
            elif command == "result":
                connection.send(("result", as_numpy(result)))
            elif command == "peak":
                connection.send(("memory", memory.peak()))
            else:
                profiles = {"time": largest_parts, "memory": largest_tensors}
                # A call that starts programs tells their stages itself.
                connection.send(("profile", call.parts() if hasattr(call, "parts") else profiles[command](call)))
    except EOFError:
        pass
    except NotMeasured as reason:
        connection.send(("not measured", str(reason)))
    except Exception:  # noqa: BLE001 - it is raised again in the main process
        connection.send(("error", traceback.format_exc()))


def measure(
    sides: Sequence[Side], rounds: int, seconds: float, *, warm: bool = True
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Run all sides in alternating order, after one call of each to warm up.

    Args:
        sides: the sides, which are ready.
        rounds: most rounds; the first two are run whatever time they take.
        seconds: no further round starts after this time.
        warm: whether the first call only warms up; otherwise it is the first round.

    Returns:
        Times and result of the first call, by the name of the side.
    """
    begin = time.perf_counter()
    results, taken = {}, {side.name: list[tuple[float, float]]() for side in sides}
    for side in sides:
        first = side.ask("run")
        taken[side.name] += [] if warm else [first]
        results[side.name] = side.ask("result")
    for number in range(rounds if warm else rounds - 1):
        if number > 1 and time.perf_counter() - begin > seconds:
            break
        for side in sides if number % 2 else reversed(sides):
            taken[side.name].append(side.ask("run"))
    times = {}
    for side in sides:
        processor, wall = (list(column) for column in zip(*taken[side.name], strict=True))
        times[side.name] = Times(processor, wall, side.ask("peak"))
    return times, results


def processor_time() -> float:
    """Return the processor time of this process and of the programs that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Memory:
    """Rise of the peak of resident memory since this object was made (Linux: /proc)."""

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
            # What is free but resident, of making the inputs, would hide a part of the rise.
            ctypes.CDLL(None).malloc_trim(0)
        self._status = Path("/proc/self/status")
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
            self._before: int | None = self._resident("VmRSS")
        except OSError:
            self._before = None

    def peak(self) -> float | None:
        """Return the rise in MiB; None where the system does not tell."""
        return None if self._before is None else (self._resident("VmHWM") - self._before) / 1024

    def _resident(self, field: str) -> int:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1])


def largest_parts(call: Callable[[], Any], count: int = 4) -> list[tuple[str, float]]:
    """Return the parts of a call with the largest shares of its time: torch operations, or Python functions.

    Operations are taken where torch computes for more than half of the time.
    """
    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        call()
    whole = time.perf_counter() - begin
    operations = {event.key: event.self_cpu_time_total / 1e6 for event in record.key_averages()}
    if sum(operations.values()) < whole / 2:
        return _largest_functions(call, count)
    ranked = sorted(operations.items(), key=lambda item: -item[1])[:count]
    total = sum(operations.values())
    return [(name.removeprefix("aten::"), seconds / total) for name, seconds in ranked]


def largest_tensors(call: Callable[[], Any], count: int = 4) -> list[tuple[str, float]]:
    """Return the torch operations with the largest shares of the memory of tensors, made in a call, at its peak."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [(event, "") for event in record.profiler.kineto_results.experimental_event_tree()]  # type: ignore[union-attr]
    allocations = []
    while events:
        event, operation = events.pop()
        if event.tag == _EventType.Allocation:
            allocations.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size, operation))
        events += [(child, operation or event.name.removeprefix("aten::")) for child in event.children]
    alive: dict[int, tuple[int, str]] = {}
    total, peak, at_peak = 0, 0, list[tuple[int, str]]()
    for _, address, size, operation in sorted(allocations):
        if size > 0:
            alive[address] = size, operation
            total += size
        elif address in alive:
            total -= alive.pop(address)[0]
        if total > peak:
            peak, at_peak = total, list(alive.values())
    sizes: Counter[str] = Counter()
    for size, operation in at_peak:
        sizes[operation] += size
    return [(operation, size / peak) for operation, size in sizes.most_common(count)]


def _largest_functions(call: Callable[[], Any], count: int) -> list[tuple[str, float]]:
    recorder = cProfile.Profile()
    recorder.runcall(call)
    rows: Mapping[tuple[str, int, str], Any] = pstats.Stats(recorder).stats  # type: ignore[attr-defined]
    total = sum(row[2] for row in rows.values()) or 1.0
    ranked = sorted(rows.items(), key=lambda item: -item[1][2])[:count]
    return [(name.strip("<>").removeprefix("built-in method "), row[2] / total) for (_, _, name), row in ranked]


def as_numpy(value: Any) -> Any:
    """Replace tensors by arrays, in lists, tuples and dicts too."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: as_numpy(each) for key, each in value.items()}
    return [as_numpy(each) for each in value] if isinstance(value, list | tuple) else value


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, smallest and largest value."""
    return median(values), min(values), max(values)
