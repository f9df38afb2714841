"""The measurement of memory finds growth."""

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
    sampling, kept = memory.Sampling(100), []
    for _ in range(100):
        kept.append(b"x" * 2**20)
        sampling.step()
    assert len(sampling.sizes) == 100
    assert not memory.Growth("training", 100, tuple(sampling.sizes)).is_flat
