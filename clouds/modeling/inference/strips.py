"""Strips of rows that fit into the memory of the device."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from clouds.utils.devices import release_cache

logger = logging.getLogger(__name__)

# 16 canvas rows of 100 masks at width 2048 take 13 MB, which a processor's cache holds; the published code upsamples
# all rows at once.
STRIP_ROWS = 16

_rows = STRIP_ROWS  # halved whenever a device runs out of memory, for all later images


def in_strips(compute: Callable[[int], Tensor], device: torch.device) -> Tensor:
    """Compute a result in strips of rows, and again in strips of half as many while the device runs out of memory.

    Later calls begin with the number of rows that was small enough.

    Args:
        compute: returns the result, given the number of rows of a strip; the result must not depend on it.
        device: device of the result.

    Raises:
        torch.OutOfMemoryError: a single row is too large.
    """
    global _rows
    while True:
        try:
            return compute(_rows)
        except torch.OutOfMemoryError:
            if _rows == 1:
                raise
        # Outside of the handler, because the exception holds the tensors of the failed attempt.
        _rows //= 2
        logger.warning(f"{device} is out of memory: images are evaluated in strips of {_rows} rows from here on")
        release_cache(device)
