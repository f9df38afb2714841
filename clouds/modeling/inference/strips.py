"""Parts of a computation that fit into the memory of the device."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from clouds.utils.devices import release_cache

logger = logging.getLogger(__name__)

# 16 canvas rows of 100 masks at width 2048 take 13 MB, which a processor's cache holds; the published code upsamples
# all rows at once.
STRIP_ROWS = 16


class Halved:
    """Size of the parts of a computation, which is halved whenever a device runs out of memory, for all later images.

    Attributes:
        size: the size.
    """

    def __init__(self, size: int, parts: str) -> None:
        """
        Args:
            size: first size.
            parts: how the parts are called in a warning, such as "strips of {} rows".
        """
        self.size = size
        self.parts = parts

    def __call__(self, compute: Callable[[int], Tensor], device: torch.device) -> Tensor:
        """Compute a result in parts, and again in parts of half the size while the device runs out of memory.

        Args:
            compute: returns the result, given the size of a part; the result must not depend on it.
            device: device of the result.

        Raises:
            torch.OutOfMemoryError: a part of size 1 is too large.
        """
        while True:
            try:
                return compute(self.size)
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
            # Outside of the handler, because the exception holds the tensors of the failed attempt.
            self.size //= 2
            parts = self.parts.format(self.size)
            logger.warning(f"{device} is out of memory: images are evaluated in {parts} from here on")
            release_cache(device)


in_strips = Halved(STRIP_ROWS, "strips of {} rows")
"""Strips of rows of scores."""
