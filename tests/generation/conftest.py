"""Pipelines that several modules paint with: written once."""

from pathlib import Path

import pytest

from tests.generation.pipelines import write_sdxl, write_stable_diffusion


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("models") / "sdxl")
