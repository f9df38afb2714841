"""The measurement of memory finds growth."""

import contextlib
import mmap
from collections.abc import Callable
from types import ModuleType

import pytest

from clouds.utils.memory import resident_size


@pytest.mark.parametrize(("last", "flat"), [(1000, True), (1019, True), (1021, False), (900, True)])
def test_growth_is_that_of_the_last_tenth(module: Callable[[str], ModuleType], last: int, flat: bool) -> None:
    sizes = (1000, *[1000] * 9, 5000, *[1000] * 80, *[last] * 10)
    growth = module("soak.memory").Growth("training", 100, sizes)
    assert growth.share == pytest.approx(last / 1000 - 1)
    assert growth.is_flat == flat


@pytest.mark.skipif(resident_size() is None, reason="needs /proc")
def test_a_leak_is_seen(module: Callable[[str], ModuleType]) -> None:
    memory = module("soak.memory")
    sampling = memory.Sampling(100)
    # New pages of the system: an object could lie in memory that the allocator has kept from earlier tests. 90 steps
    # lie between the medians, so this leak is three times the limit, whatever the size of the process.
    leak = memory.LIMIT * (resident_size() or 0) / 30
    with contextlib.ExitStack() as pages:
        for _ in range(100):
            pages.enter_context(mmap.mmap(-1, round(leak))).write(bytes([1]) * round(leak))
            sampling.step()
    assert len(sampling.sizes) == 100
    assert not memory.Growth("training", 100, tuple(sampling.sizes)).is_flat
