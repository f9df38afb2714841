"""The miniature Stable Diffusion that the repository carries."""

from pathlib import Path

import numpy as np
from minicity.diffusion.quality import looks

from clouds.generation.painter import Painter
from clouds.generation.settings import PaintingSettings

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "projects/minicity/weights/diffusion"


def paint(prompt, count=4):
    painter = Painter(PaintingSettings(model=str(FOLDER), steps=6, guidance=3.0), device="cpu", batch_size=count)
    return np.stack([painted.pixels for painted in painter([prompt] * count, range(count))])


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 16e6
    assert (FOLDER / "README.md").is_file()


def test_words_decide_what_it_paints():
    day = paint("A photo of a street at noon with two cars, trees and buildings.")
    dusk = paint("A photo of a street at dusk with two cars, trees and buildings.")
    assert day.shape == (4, 128, 256, 3)
    for images in (day, dusk):
        assert (looks(images)[:, 1] > 0.05).all()  # not blank
        assert np.abs(images[0].astype(int) - images[1]).mean() > 5  # nor always the same
    assert np.abs(day.astype(int) - dusk).mean(axis=(1, 2, 3)).min() > 5
    assert looks(day)[:, 0].mean() > looks(dusk)[:, 0].mean()
