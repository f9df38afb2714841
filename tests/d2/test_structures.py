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
@given(
    sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4),
    divisor=st.integers(0, 5),
    pad=st.sampled_from([0.0, 255.0]),
)
def test_padding(sizes, divisor, pad):
    images = [torch.rand(3, *size) for size in sizes]
    batch = ImageList.from_tensors(images, divisor, pad)
    height, width = batch.tensor.shape[-2:]
    step = max(divisor, 1)
    assert height % step == width % step == 0
    assert height - step < max(h for h, _ in sizes) <= height
    assert width - step < max(w for _, w in sizes) <= width
    assert len(batch) == len(images)
    assert [tuple(size) for size in batch.image_sizes] == sizes
    for index, image in enumerate(images):
        assert torch.equal(batch[index], image)
        padding = batch.tensor[index].clone()
        padding[:, : image.shape[1], : image.shape[2]] = pad
        assert bool((padding == pad).all())


def test_image_list_details():
    labels = [torch.ones(2, 3, dtype=torch.int64), torch.ones(4, 1, dtype=torch.int64)]
    batch = ImageList.from_tensors(labels, pad_value=255)
    assert batch.tensor.dtype == torch.int64
    assert batch.tensor[1, 3].tolist() == [1, 255, 255]
    assert batch.to(torch.float32).tensor.dtype == torch.float32
    assert batch.device.type == "cpu"
    square = ImageList.from_tensors(labels, 2, padding_constraints={"square_size": 7, "size_divisibility": 4})
    assert square.tensor.shape == (2, 8, 8)
    with pytest.raises(AssertionError):
        ImageList.from_tensors([torch.ones(1, 2, 2), torch.ones(3, 2, 2)])
    with pytest.raises(AssertionError):
        ImageList.from_tensors([])


@pytest.fixture
def instances():
    return Instances((4, 6), gt_classes=torch.tensor([3, 1, 2]), names=["c", "a", "b"])


def test_fields(instances):
    instances.scores = torch.tensor([0.1, 0.2, 0.3])
    assert instances.image_size == (4, 6)
    assert len(instances) == 3
    assert instances.has("scores")
    assert instances.get("scores") is instances.scores is instances.get_fields()["scores"]
    instances.remove("scores")
    assert not instances.has("scores")
    with pytest.raises(AttributeError, match="scores"):
        instances.scores  # noqa: B018
    with pytest.raises(KeyError):
        instances.get("scores")
    with pytest.raises(AssertionError):
        instances.scores = torch.zeros(2)


def test_indexing(instances):
    picked = Instances((4, 6), gt_classes=torch.tensor([3, 1, 2]))[torch.tensor([True, False, True])]
    assert picked.gt_classes.tolist() == [3, 2]
    assert instances[1:].names == ["a", "b"]
    assert instances[-1].gt_classes.tolist() == [2]
    assert instances[0].image_size == (4, 6)
    with pytest.raises(IndexError):
        instances[3]
    with pytest.raises(NotImplementedError):
        iter(instances)
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
    assert "num_instances=3" in str(instances)


def test_cat(instances):
    joined = Instances.cat([instances, instances[:1]])
    assert joined.gt_classes.tolist() == [3, 1, 2, 3]
    assert joined.names == ["c", "a", "b", "c"]
    with pytest.raises(AssertionError):
        Instances.cat([instances, Instances((5, 6), gt_classes=torch.tensor([1]), names=["d"])])
    with pytest.raises(ValueError, match="str"):
        Instances.cat([Instances((4, 6), text="ab"), Instances((4, 6), text="cd")])
