import os

import pytest

from clouds.utils.processes import parallel_map


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_from_one_or_several_processes(processes: int) -> None:
    pairs = list(parallel_map(square, range(20), processes=processes, chunk_size=3))
    assert [(item, result) for item, (result, _) in pairs] == [(n, n * n) for n in range(20)]
    assert (os.getpid() in {process for _, (_, process) in pairs}) == (processes == 1)


def test_nothing_to_do() -> None:
    assert list(parallel_map(square, [], processes=2)) == []


def invert(number: int) -> float:
    return 1 / number


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_here(processes: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(invert, [1, 0], processes=processes))
