"""The miniature Stable Diffusion in the repository."""

import numpy as np
from minicity.diffusion.evaluation import image_statistics
from minicity.paths import PROJECT

from clouds.generation.painter import Painter
from clouds.generation.settings import PaintingSettings

FOLDER = PROJECT / "weights/diffusion"


def paint(prompt, count=4):
    painter = Painter(PaintingSettings(model=str(FOLDER), steps=6, guidance=3.0), device="cpu", batch_size=count)
    return np.stack([painted.pixels for painted in painter([prompt] * count, range(count))])


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 16e6
    assert (FOLDER / "README.md").is_file()


def test_images_follow_the_words():
    day = paint("A photo of a street at noon with two cars, trees and buildings.")
    dusk = paint("A photo of a street at dusk with two cars, trees and buildings.")
    assert day.shape == (4, 128, 256, 3)
    for images in (day, dusk):
        assert (image_statistics(images)[:, 1] > 0.05).all()  # not blank
        assert np.abs(images[0].astype(int) - images[1]).mean() > 5  # not always the same
    assert np.abs(day.astype(int) - dusk).mean(axis=(1, 2, 3)).min() > 5
    assert image_statistics(day)[:, 0].mean() > image_statistics(dusk)[:, 0].mean()
