"""Settings that all tests of the project share."""

import logging
import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

# Models are loaded from local folders only.
os.environ["HF_HUB_OFFLINE"] = "1"

# Loaded machines miss any deadline. `HYPOTHESIS_PROFILE=search` looks for new examples.
hypothesis.settings.register_profile("clouds", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "clouds"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _restore_loggers() -> Iterator[None]:
    """Remove the handlers that a command adds, so that no test logs into the folder of another."""
    yield
    for name in ("clouds", "detectron2"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
