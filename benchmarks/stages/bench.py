"""Timing on a GPU or a CPU, and the record of all measurements of a run."""

import contextlib
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TextIO

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20

# Name: whether float32 products may use TF32, and the dtype of autocast. "default" leaves torch's settings as they are:
# convolutions in TF32, matrix products in full float32.
PRECISIONS: dict[str, tuple[bool | None, torch.dtype | None]] = {
    "default": (None, None),
    "fp32": (False, None),
    "tf32": (True, None),
    "bf16": (True, torch.bfloat16),
}


@dataclass(frozen=True)
class Timing:
    """Median time of a call.

    Attributes:
        seconds: time on the device, by CUDA events; on a CPU equal to `wall_seconds`.
        wall_seconds: time on the host until the device has finished.
        memory_mib: peak of allocated device memory above what was allocated before, MiB; 0 on a CPU.
    """

    seconds: float
    wall_seconds: float
    memory_mib: float


class Bench:
    """Times calls within a budget, prints a line per measurement, and keeps all of them.

    Attributes:
        device: device of all measurements.
        smoke: whether everything runs in miniature, one repetition per measurement.
        measurements: one dict per measurement, with `name` and either timings or other facts.
        failures: one dict per failed measurement or stage, with `name` and `error`.
    """

    def __init__(self, *, seconds: float, smoke: bool = False, stream: TextIO = sys.stdout) -> None:
        """
        Args:
            seconds: budget of the run; `left` counts it down.
            smoke: whether everything runs in miniature.
            stream: receives the lines.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.smoke = smoke
        self.measurements: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        self._stream = stream
        self._budget = seconds
        self._begin = time.perf_counter()

    def left(self) -> float:
        """Return the seconds that are left of the budget."""
        return self._budget - (time.perf_counter() - self._begin)

    def time(
        self,
        name: str,
        call: Callable[[], object],
        *,
        peer: str | None = None,
        images: int | None = None,
        seconds: float = 1.5,
        **facts: Any,
    ) -> None:
        """Measure a call and record it; a call that fails is recorded as a failure.

        Args:
            name: name of the measurement.
            call: repeated until `seconds` have passed, at least 3 and at most 30 times, after 2 calls to warm up.
            peer: name of an earlier measurement. The ratio says how many times as fast as the peer the call is, per
                image if both have images. There is none if the peer was not measured.
            images: number of images that a call processes; None if it does not process whole images.
            seconds: time to spend on the measurement.
            facts: further entries of the record.
        """
        try:
            timing = self._timing(call, seconds)
        except (RuntimeError, TypeError, ValueError) as error:  # out of memory, or a precision that is not supported
            self.fail(name, error)
            return
        record: dict[str, Any] = {"seconds": timing.seconds}
        if self.device.type == "cuda":
            record |= {"wall_seconds": timing.wall_seconds, "memory_mib": timing.memory_mib}
        if images is not None:
            record |= {"images": images, "images_per_second": images / timing.wall_seconds}
        reference = next((other for other in self.measurements if other["name"] == peer), None)
        if reference is not None:
            share = (images or 1) / reference.get("images", 1)
            record |= {"ratio": share * reference["seconds"] / timing.seconds, "peer": peer}
        self.note(name, **record, **facts)

    def note(self, name: str, **facts: Any) -> None:
        """Record facts under a name and print them; ValueError if the name is taken."""
        if any(other["name"] == name for other in self.measurements):
            raise ValueError(f"name {name!r} is taken by an earlier measurement")
        self.measurements.append({"name": name, **facts})
        self._print(name, "  ".join(shown(key, value) for key, value in facts.items()))

    def note_host(self, name: str, call: Callable[[], object]) -> None:
        """Record how a call keeps the GPU busy: synchronizations with the host, launches, share of the time.

        Does nothing on a CPU.
        """
        if self.device.type == "cuda":
            lines = self._synchronizations(call)
            self.note(name, **self._kernels(call), synchronizations=sum(lines.values()), lines=lines)

    def fail(self, name: str, error: Exception) -> None:
        """Record a failure, print it, and write its traceback to stderr."""
        traceback.print_exception(error, file=sys.stderr)
        message = without_folders(f"{type(error).__name__}: {error}")[:300]
        self.failures.append({"name": name, "error": message})
        self._print(name, f"FAILED {message}")

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """Compute in an entry of PRECISIONS inside the context."""
        tf32, dtype = PRECISIONS[name]
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        if tf32 is not None:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
        try:
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def _synchronizations(self, call: Callable[[], object]) -> dict[str, int]:
        """Count the times that the host waits for the GPU in a call, by line of `clouds` where there is one."""
        call()
        self.synchronize()
        lines: Counter[str] = Counter()

        def note(message: Warning | str, category: type[Warning], file: str, line: int, *_: object) -> None:
            if "synchroniz" in str(message):
                places = [(file, line), *((frame.filename, frame.lineno or 0) for frame in traceback.extract_stack())]
                ours = [place for place in places if place[0].startswith(f"{ROOT}/clouds/")]
                file, line = ours[-1] if ours else places[0]
                lines[f"{without_folders(file, ROOT)}:{line}"] += 1

        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.showwarning = note  # type: ignore[assignment]
                call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return dict(lines.most_common())

    def _kernels(self, call: Callable[[], object]) -> dict[str, float]:
        """Return launches, seconds and share of the wall time of a call's kernels and copies on the GPU."""
        call()
        self.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
            begin = time.perf_counter()
            call()
            self.synchronize()
            wall = time.perf_counter() - begin
        kernels = [event for event in record.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        seconds = sum(event.device_time_total for event in kernels) / 1e6
        return {"launches": len(kernels), "kernel_seconds": seconds, "kernel_share": seconds / wall}

    def _timing(self, call: Callable[[], object], seconds: float) -> Timing:
        warmup, fewest, most = (0, 1, 1) if self.smoke else (2, 3, 30)
        for _ in range(warmup):
            call()
        self.synchronize()
        before = 0
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        times: list[float] = []
        walls: list[float] = []
        begin = time.perf_counter()
        while len(times) < most and (len(times) < fewest or time.perf_counter() - begin < seconds):
            taken, wall = self._once(call)
            times.append(taken)
            walls.append(wall)
        peak = torch.cuda.max_memory_allocated() - before if self.device.type == "cuda" else 0
        return Timing(median(times), median(walls), peak / MIB)

    def _once(self, call: Callable[[], object]) -> tuple[float, float]:
        """Return device seconds and wall seconds of one call."""
        begin = time.perf_counter()
        if self.device.type != "cuda":
            call()
            wall = time.perf_counter() - begin
            return wall, wall
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, time.perf_counter() - begin

    def _print(self, name: str, text: str) -> None:
        self._stream.write(f"{time.perf_counter() - self._begin:7.1f}s {name:44s} {text}\n")
        self._stream.flush()


def shown(key: str, value: Any) -> str:
    """Return an entry of a record as the lines show it."""
    patterns = {"seconds": "{:9.3f} ms", "wall_seconds": "wall {:.3f} ms", "memory_mib": "{:.0f} MiB"}
    patterns |= {"images": "{} images", "images_per_second": "{:.4g} images/s", "ratio": "{:.2f}x", "peer": "{}"}
    default = f"{key} {{:.4g}}" if isinstance(value, float) else f"{key} {{}}"
    return patterns.get(key, default).format(1e3 * value if key in ("seconds", "wall_seconds") else value)


def relative_error(tensor: Tensor, exact: Tensor) -> float:
    """Return |tensor - exact| / |exact| in the Euclidean norm, computed in float64."""
    tensor, exact = tensor.detach().double(), exact.detach().double()
    return ((tensor - exact).norm() / exact.norm().clamp(min=1e-30)).item()


def without_folders(text: str, root: Path | None = None) -> str:
    """Shorten absolute paths in a text: relative to `root` where they lie in it, else to their last component."""
    if root is not None:
        text = text.replace(f"{root}/", "")
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\":,]+/)+", "", text)
