"""Parameters of tests with marks."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Return values as parameters whose tests are slow ones: ``make test-slow`` runs them."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
