"""Augmentation of images."""

import torch
from minicity.training.images import augment


def test_augmented_pixels_stay_in_range_and_are_determined_by_the_generator():
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    one, same, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert one.equal(same)
    assert not one.equal(other)
    assert 0 <= one.min()
    assert one.max() <= 1
