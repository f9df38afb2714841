"""The miniature SAM that the repository carries."""

from pathlib import Path

import pytest
from minicity.sam.pool import draw_streets
from minicity.sam.quality import measure
from minicity.world.wide import WIDE_STYLES

from clouds.config import load_config
from clouds.self_training.sam import build_sam

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "projects/minicity/weights/sam"


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 4e6
    assert (FOLDER / "README.md").is_file()


def test_points_find_what_they_lie_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    sam = build_sam(load_config("projects/minicity/configs/joint.yaml", ["MODEL.CLOUDS.SAM.CACHE_DIR", ""]), "cpu")
    scores = measure(sam, draw_streets(WIDE_STYLES, 7, range(6)))
    one, five = scores["regions", 1], scores["regions", 5]
    assert five.prompts > 40
    assert five.best > five.chosen > one.chosen
    # A disc of the true area around the points knows more than SAM is told.
    assert five.best > five.disc
