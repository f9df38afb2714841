"""Every failing file is listed."""

import logging

import pytest

from clouds.errors import UserError
from clouds.utils.failures import raise_failures


def test_every_failure_is_logged_and_the_first_is_in_the_error(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("clouds.test")
    raise_failures([], "nothing", logger)
    with pytest.raises(UserError, match=r"^2 of 5 failed; first: a is empty\.$"):
        raise_failures(["a is empty.", "b is a video."], "2 of 5 failed", logger)
    assert caplog.messages == ["a is empty.", "b is a video."]
    with pytest.raises(UserError, match=r"^1 of 5 failed; first: a is empty\.$"):
        raise_failures(["a is empty."], "1 of 5 failed", logger)
