"""Exchanges between processes that train on shares of one batch, so that its loss is that of a single process.

Each process computes the losses of its share of the images, and data-parallel training averages the gradients over the
processes. The average is the gradient of the whole batch under three conditions:

1. All processes pad their images to the same canvas, since padding influences the features (`largest_over_processes`).
2. Each loss is a sum over the images of the process, divided by the mean over the processes of its normalizer, such as
   the number of masks (`mean_over_processes`). The mean of these quotients over the processes is the sum over all
   images divided by the sum of all normalizers.
3. No process waits for one that has failed. A failure travels with the values that are exchanged anyway, and all
   processes raise together (`mean_over_processes`, `gather_losses`).

All processes must call each function together. With a single process, nothing is exchanged.
"""

from typing import Any

import torch
from torch import Tensor

from clouds.d2 import comm


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


def mean_over_processes(values: Tensor, failure: FloatingPointError | None = None) -> list[float]:
    """Average each entry of a vector over all processes, in one exchange and one transfer from the device.

    Args:
        values: (n,) float; n is equal in all processes.
        failure: error of this process, which makes the values irrelevant.

    Raises:
        FloatingPointError: some process passed a failure. In processes that passed none, it has no message.
    """
    exchanged = torch.cat([values, values.new_full((1,), float(failure is not None))])
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(exchanged)
        exchanged = exchanged / comm.get_world_size()
    *means, failed = exchanged.tolist()
    if failed:
        raise failure or FloatingPointError
    return means
