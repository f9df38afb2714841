"""Captioned crops: size, words and class."""

import re

import numpy as np
import pytest
from minicity.clip.crops import WORDS, captioned_crops
from minicity.world.render import render_scene

from clouds.data.classes import CITYSCAPES_CLASSES


@pytest.fixture(scope="module")
def rendered():
    return [render_scene("minicity_sim", 5, index) for index in range(4)]


def cut(scene, seed=0, count=30, size=48):
    return captioned_crops(scene, "at noon", count, size, np.random.default_rng(seed))


def test_every_crop_names_its_class_first(rendered):
    for scene in rendered:
        for crop in cut(scene):
            assert crop.pixels.shape == (48, 48, 3)
            assert crop.pixels.dtype == np.uint8
            about = re.split(" beside | next to | in front of ", crop.caption)[0]
            assert any(re.search(rf"\b{word}\b", about) for word in WORDS[crop.label]), crop.caption
            assert crop.caption.endswith(".")


def test_the_class_occurs_in_the_scene_and_classes_take_turns(rendered):
    for scene in rendered:
        labels = [crop.label for crop in cut(scene, count=60)]
        assert set(labels) <= set(np.unique(scene.label))
        counts = np.bincount(labels)
        assert counts.max() <= 60 // len(set(labels)) + 6
        assert len(set(labels)) >= 8


def test_crops_are_determined_by_the_generator(rendered):
    one, same, other = (cut(rendered[0], seed) for seed in (1, 1, 2))
    assert [crop.caption for crop in one] == [crop.caption for crop in same]
    assert all((a.pixels == b.pixels).all() for a, b in zip(one, same, strict=True))
    assert [crop.caption for crop in one] != [crop.caption for crop in other]


def test_words_are_synonyms_of_the_segmentation_classes():
    for label, words in WORDS.items():
        assert set(words) <= set(CITYSCAPES_CLASSES[label].split(","))
