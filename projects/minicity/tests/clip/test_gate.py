"""The quality gate of generated images, with the miniature CLIP and on drawn scenes."""

import numpy as np
import pytest
from minicity.paths import PROJECT
from minicity.world.render import render_scene
from minicity.world.styles import STYLES

from clouds.generation.gate import luminance_contrast
from clouds.generation.settings import GateSettings
from clouds.generation.similarity import ClipSimilarity


@pytest.mark.parametrize("style", STYLES)
def test_no_scene_is_blank(style: str) -> None:
    for seed in range(3):
        image = render_scene(style, 0, seed, (64, 128)).image
        assert luminance_contrast(image) > 1.5 * GateSettings().contrast


def test_the_right_prompts_are_more_similar() -> None:
    sky = np.zeros((64, 64, 3), np.uint8)
    sky[:] = (110, 160, 230)
    leaves = np.random.default_rng(0).integers(0, 60, (64, 64, 3)).astype(np.uint8)
    leaves[..., 1] += 70
    clip = ClipSimilarity(str(PROJECT / "weights/clip"), "", device="cpu")
    right, wrong = clip([sky, leaves], ["sky", "vegetation"]), clip([sky, leaves], ["vegetation", "sky"])
    assert sum(right) > sum(wrong)
