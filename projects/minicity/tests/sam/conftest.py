"""Scenes that several tests of the SAM share."""

import pytest
from minicity.sam.pool import LabeledScenes, draw_labeled_scenes
from minicity.world.wide import WIDE_STYLES


@pytest.fixture(scope="session")
def scenes() -> LabeledScenes:
    return draw_labeled_scenes(WIDE_STYLES, 3, range(3))
