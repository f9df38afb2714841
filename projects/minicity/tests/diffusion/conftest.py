"""Scenes that several tests of the Stable Diffusion share."""

import pytest
from minicity.diffusion.pool import CaptionedScenes, draw_captioned_scenes
from minicity.world.wide import WIDE_STYLES


@pytest.fixture(scope="session")
def drawn() -> CaptionedScenes:
    return draw_captioned_scenes(WIDE_STYLES, 0, range(150))
