"""ImageList and Instances."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.d2 import ImageList, Instances

SIDES = st.integers(1, 9)


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4), divisor=st.integers(0, 5))
def test_padding(sizes, divisor):
    images = [1 + torch.rand(3, *size) for size in sizes]
    batch = ImageList.from_tensors(images, divisor)
    height, width = batch.tensor.shape[-2:]
    step = max(divisor, 1)
    assert height % step == width % step == 0
    assert height - step < max(h for h, _ in sizes) <= height
    assert width - step < max(w for _, w in sizes) <= width
    assert [tuple(size) for size in batch.image_sizes] == sizes
    for padded, image in zip(batch.tensor, images, strict=True):
        assert torch.equal(padded[:, : image.shape[1], : image.shape[2]], image)
        assert padded.count_nonzero() == image.numel()


def test_image_list_refuses():
    with pytest.raises(AssertionError):
        ImageList.from_tensors([torch.ones(1, 2, 2), torch.ones(3, 2, 2)])
    with pytest.raises(AssertionError):
        ImageList.from_tensors([])


@pytest.fixture
def instances():
    return Instances((4, 6), gt_classes=torch.tensor([3, 1, 2]), names=["c", "a", "b"])


def test_fields(instances):
    scores = torch.tensor([0.1, 0.2, 0.3])
    instances.scores = scores
    assert instances.scores is scores
    assert instances.image_size == (4, 6)
    assert len(instances) == 3
    with pytest.raises(AttributeError, match="boxes"):
        instances.boxes  # noqa: B018
    with pytest.raises(AssertionError):
        instances.scores = torch.zeros(2)
    with pytest.raises(NotImplementedError):
        len(Instances((4, 6)))


def test_moves_and_copies(instances):
    moved = instances.to(torch.float32)
    assert moved.gt_classes.dtype == torch.float32
    assert instances.gt_classes.dtype == torch.int64
    assert moved.names == instances.names
    for twin in (copy.deepcopy(instances), pickle.loads(pickle.dumps(instances))):
        assert twin.gt_classes.tolist() == [3, 1, 2]
        assert twin.image_size == (4, 6)
