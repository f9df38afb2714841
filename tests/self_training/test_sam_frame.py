"""Transforms between an image and the square that SAM sees."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from clouds.self_training.sam import frame as module
from clouds.self_training.sam.frame import MEAN, STD, Frame

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@given(size=SIZES, side=st.sampled_from([64, 512, 1024]))
def test_an_image_fills_the_longest_side_and_stays_inside(size, side):
    fitted = Frame(side).fit(size)
    assert max(fitted) == side
    assert all(1 <= after for after in fitted)
    for before, after in zip(size, fitted, strict=True):
        assert abs(after - before * side / max(size)) <= 0.5 or after == 1


@given(size=SIZES, side=st.sampled_from([64, 1024]), keep_aspect=st.booleans())
def test_corners_go_to_corners(size, side, keep_aspect):
    frame = Frame(side, keep_aspect)
    height, width = frame.fit(size)
    corners = torch.tensor([[0.0, 0.0], [size[1], size[0]]], dtype=torch.float64)
    torch.testing.assert_close(frame.to_frame(corners, size), torch.tensor([[0, 0], [width, height]]).double())


def test_images_of_different_sizes_share_a_batch():
    torch.manual_seed(3)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((40, 96), (128, 70), (64, 64))]
    batch = Frame(64).stack(images, torch.device("cpu"))
    assert batch.shape == (3, 3, 64, 64)
    for square, image in zip(batch, images, strict=True):
        height, width = Frame(64).fit(image.shape[1:])
        # SAM's authors resize with Pillow.
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
        expected = (np.asarray(pillow) - np.float32(MEAN)) / np.float32(STD)
        difference = np.abs(square[:, :height, :width].permute(1, 2, 0).numpy() - expected)
        assert difference.max() < 1.01 / min(STD)  # a step of 255
        assert (difference > 1e-5).mean() < 0.01
        assert not square[:, height:].any()
        assert not square[:, :, width:].any()


def test_without_aspect_the_square_is_full():
    image = torch.full((3, 10, 90), 255, dtype=torch.uint8)
    assert (Frame(64, keep_aspect=False).stack([image], torch.device("cpu")) > 1).all()


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("size", [(48, 64), (33, 20), (200, 150)])
def test_a_mask_comes_back_to_where_it_was(size, keep_aspect):
    frame = Frame(64, keep_aspect)
    height, width = frame.fit(size)
    y, x = (torch.arange(length) for length in size)
    truth = ((y[:, None] - size[0] / 2) ** 2 / size[0] ** 2 + (x - size[1] / 3) ** 2 / size[1] ** 2) < 0.05
    square = torch.full((1, 64, 64), -5.0)
    square[:, :height, :width] = F.interpolate(truth[None, None].float() * 10 - 5, (height, width), mode="bilinear")[0]
    logits = F.interpolate(square[None], (32, 32), mode="bilinear")[0]
    mask = frame.to_masks(logits, size)[0]
    assert mask.shape == truth.shape
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_masks_are_the_same_in_pieces(monkeypatch):
    logits = torch.randn(7, 16, 16)
    whole = Frame(64).to_masks(logits, (40, 60))
    monkeypatch.setattr(module, "_PIXELS", 2 * 64 * 64)
    assert torch.equal(Frame(64).to_masks(logits, (40, 60)), whole)
    assert whole.dtype == torch.bool
    assert Frame(64).to_masks(logits[:0], (40, 60)).shape == (0, 40, 60)
