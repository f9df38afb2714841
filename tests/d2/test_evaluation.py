"""inference_on_dataset."""

import pytest
import torch
from torch import nn

from clouds.d2 import DatasetEvaluator, inference_on_dataset


class Model(nn.Module):
    def forward(self, batch):
        assert not self.training
        assert not torch.is_grad_enabled()
        return [2 * item for item in batch]


class Sum(DatasetEvaluator):
    def __init__(self):
        self.total = -1

    def reset(self):
        self.total = 0

    def process(self, inputs, outputs):
        self.total += sum(inputs) + sum(outputs)

    def evaluate(self):
        return {"task": {"sum": self.total}}


@pytest.mark.parametrize("training", [True, False])
def test_results_and_mode(training):
    model = Model().train(training)
    loader = [[i] for i in range(12)]
    assert inference_on_dataset(model, loader, Sum()) == {"task": {"sum": 3 * 66}}
    assert model.training is training
    assert torch.is_grad_enabled()


def test_none_becomes_empty():
    assert inference_on_dataset(Model(), [[1]], DatasetEvaluator()) == {}
