"""Time and memory of a call.

On a GPU, memory is that of torch's allocator. On a CPU, it is that of the tensors that operations return, until they
are freed: without temporaries inside an operation, Python, libraries and what the operating system keeps.
"""

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """Memory of a call.

    Attributes:
        peak: most bytes during the call, above those before it.
        kept: bytes after the call, above those before it.
    """

    peak: int
    kept: int


def timed(call: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Return the seconds of a call, with all that it queues on a device, and its result."""
    _wait(device)
    start = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - start, result


def memory_of(call: Callable[[], T], device: torch.device) -> tuple[Memory, T]:
    """Return the memory of a call, and its result."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        _wait(device)
        peak, after = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
        return Memory(peak - before, after - before), result
    with TensorMemory() as record:
        result = call()
    return Memory(record.peak, record.kept), result


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations return in its context, until they are freed.

    Attributes:
        kept: bytes of those that are not freed.
        peak: largest value of `kept` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept = self.peak = 0
        self._known = weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and id(storage) not in given and storage not in self._known:  # no view
                self._known.add(storage)
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return result

    def _change(self, size: int) -> None:
        self.kept += size
        self.peak = max(self.peak, self.kept)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
