"""Failures of single files: every one is listed, and one sentence sums them up."""

import logging
from collections.abc import Sequence

from clouds.errors import UserError


def raise_failures(failures: Sequence[str], summary: str, logger: logging.Logger) -> None:
    """Log each failure in a line and raise an error that sums them up; without failures do nothing.

    Args:
        failures: one sentence per failure.
        summary: beginning of the error message, such as "2 of 5 images failed"; the first failure is its end.
        logger: logger of the caller.

    Raises:
        UserError: there are failures.
    """
    if not failures:
        return
    for failure in failures:
        logger.error("%s", failure)
    raise UserError(f"{summary}; first: {failures[0]}")
