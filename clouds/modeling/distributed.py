"""Exchanges between processes that train on shares of one batch, so that its loss is that of a single process.

Each process computes the losses of its share of the images, and data-parallel training averages the gradients over the
processes. The average is the gradient of the whole batch under three conditions:

1. All processes pad their images to the same canvas, since padding influences the features (`largest_over_processes`).
2. Each loss is a sum over the images of the process, divided by the mean over the processes of its normalizer, such as
   the number of masks (`mean_over_processes`). The mean of these quotients over the processes is the sum over all
   images divided by the sum of all normalizers.
3. No process waits for one that has failed. All processes learn of a failure in an exchange that they all take part
   in, and raise together (`finite_on_host`).

All processes must call each function together. With a single process, nothing is exchanged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from clouds.d2 import comm
from clouds.d2.groups import wait_for_all
from clouds.utils.transfer import download


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Context that the first process of each machine leaves before the others enter it, to fill a download cache."""
    if comm.get_local_rank() > 0:
        wait_for_all()
    yield
    if comm.get_local_rank() == 0:
        wait_for_all()


def largest_over_processes(size: tuple[int, int], group: Any = None) -> tuple[int, int]:
    """Return the largest height and the largest width that any process passes.

    Args:
        size: height and width of this process.
        group: process group with a CPU backend; None = that of all exchanges of Python objects. A thread that exchanges
            beside them needs a group of its own.
    """
    if comm.get_world_size() == 1:
        return size
    sizes: list[Any] = [None] * comm.get_world_size()
    if group is None:
        sizes = comm.all_gather(size)
    else:
        torch.distributed.all_gather_object(sizes, size, group=group)
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def mean_over_processes(values: Tensor) -> Tensor:
    """Average a tensor over all processes, entry by entry; its shape is equal in all processes."""
    return _sum_over_processes(values) / comm.get_world_size()


def finite_on_host(values: Tensor, message: str) -> Tensor:
    """Copy a tensor to the host, if all processes have finite values only.

    The shapes may differ between the processes. The host waits for the device once.

    Args:
        values: float.
        message: description of the failure, if a value is not finite.

    Raises:
        FloatingPointError: a value of some process is not finite. In processes whose own values are finite, it has no
            message.
    """
    # 0 * x is NaN if x is not finite, and so is the sum over all values and processes.
    check = _sum_over_processes((values * 0).sum())
    own, check = download([values, check])
    if not check.isfinite():
        raise FloatingPointError() if own.isfinite().all() else FloatingPointError(message)
    return own


def _sum_over_processes(values: Tensor) -> Tensor:
    if comm.get_world_size() > 1:
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values
