"""Checks of plain values."""

import math
from typing import Any

import pytest

from clouds.utils.values import is_integer, is_number


@pytest.mark.parametrize("value", [0, 7, 2**70, 10**400])
def test_integers(value: int) -> None:
    assert is_integer(value)
    assert is_integer(-value - 1, low=-math.inf)
    assert not is_integer(-value - 1)
    assert is_integer(value, high=value) and not is_integer(value, high=value - 1)


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1]])
def test_other_values_are_no_integers(value: Any) -> None:
    assert not is_integer(value, low=-math.inf)


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        *[(0, True), (-3, True), (0.5, True), (1e308, True), (10**300, True)],
        *[(math.nan, False), (math.inf, False), (-math.inf, False), (10**400, False), (-(10**400), False)],
        *[(True, False), ("1", False), (None, False), (1j, False)],
    ],
)
def test_numbers(value: Any, is_one: bool) -> None:
    assert is_number(value) == is_one
