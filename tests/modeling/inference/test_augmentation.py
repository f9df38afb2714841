"""Test-time augmentation on scores that are known."""

import pytest
import torch

from clouds.modeling.inference import augmented_scores


def test_views_and_their_mirror_images_are_averaged() -> None:
    image = torch.arange(12.0).view(1, 2, 6)
    # The scores are the image itself, plus a ramp from the left that does not move with it.
    ramp = torch.arange(6.0).expand(1, 2, 6)
    views = [{"image": image}, {"image": 3 * image}]
    scores = augmented_scores(lambda view: view["image"] + ramp, views)
    torch.testing.assert_close(scores, 2 * image + 2.5)
    torch.testing.assert_close(image, torch.arange(12.0).view(1, 2, 6))


def test_no_view() -> None:
    with pytest.raises(ValueError, match="views is empty"):
        augmented_scores(lambda view: view["image"], [])
