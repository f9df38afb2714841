"""Instances."""

import copy
import pickle

import pytest
import torch

from clouds.d2 import Instances


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
