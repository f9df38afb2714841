"""Settings and fixtures of all tests."""

import logging
import os
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch

# No test may reach for a hub: what is loaded lies in local folders.
os.environ["HF_HUB_OFFLINE"] = "1"

# Machines under load miss any deadline; speed belongs in benchmarks/. `make test` says the same twice;
# HYPOTHESIS_PROFILE=search looks where it has not looked before.
hypothesis.settings.register_profile("clouds", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "clouds"))


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _precision_afterwards() -> Iterator[None]:
    """A command sets the precision of float32 products in its process; the next test has that of torch."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    """A command's log goes to its own folder and to stdout; none of that is left to the next test."""
    yield
    for name in ("clouds", "detectron2"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


@pytest.fixture
def sentence(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the main function of a command that must fail with exit code 2; returns its one line on stderr."""

    def run(main: Callable[[list[str]], int], *argv: str) -> str:
        assert main(list(argv)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return run
