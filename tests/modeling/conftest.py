"""Fixtures of the tests of the model's parts."""

from pathlib import Path

import pytest

from tests.modeling.timm_folders import TOWERS, write_tower


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of each tower of `TOWERS`, with random weights."""
    root = tmp_path_factory.mktemp("towers")
    return {kind: write_tower(root / kind, kind) for kind in TOWERS}
