"""Calls beside the caller's own work."""

import threading

import pytest

from clouds.utils.beside import Beside


def test_it_runs_beside_the_caller() -> None:
    go, seen = threading.Event(), []

    def call() -> int:
        go.wait(timeout=10)
        seen.append(threading.current_thread())
        return 5

    beside = Beside(call)
    assert not seen, "the caller goes on"
    go.set()
    assert beside.result() == beside.result() == 5
    assert seen != [threading.current_thread()]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_its_error_is_raised_as_it_is_and_only_with_the_result(kind: type[BaseException]) -> None:
    error = kind("mine")

    def call() -> None:
        raise error

    beside = Beside(call)
    beside.join()
    with pytest.raises(kind) as raised:
        beside.result()
    assert raised.value is error
