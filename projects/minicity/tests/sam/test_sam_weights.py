"""The miniature SAM in the repository."""

import pytest
from minicity.paths import PROJECT, REPOSITORY
from minicity.sam.evaluation import measure
from minicity.sam.pool import draw_labeled_scenes
from minicity.world.wide import WIDE_STYLES

from clouds.config import load_config
from clouds.self_training.sam import build_sam

FOLDER = PROJECT / "weights/sam"


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 4e6
    assert (FOLDER / "README.md").is_file()


def test_points_find_the_region_that_they_lie_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    sam = build_sam(load_config("projects/minicity/configs/joint.yaml", ["MODEL.CLOUDS.SAM.CACHE_DIR", ""]), "cpu")
    scores = measure(sam, draw_labeled_scenes(WIDE_STYLES, 7, range(6)))
    one, five = scores["regions", 1], scores["regions", 5]
    assert five.prompts > 40
    assert five.best > five.chosen > one.chosen
    # The disc has the true area, which SAM does not know.
    assert five.best > five.disc
