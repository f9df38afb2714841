"""Data-parallel training of a model whose frozen parts lie on several devices."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from clouds.d2 import comm
from clouds.engine.parallel import data_parallel


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Model(nn.Module):
    """A trained layer, and a frozen one on another device that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Linear(2, 2)
        self.text = nn.Linear(2, 2, device="meta").requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.trained(x)


@pytest.mark.usefixtures("group")
def test_a_frozen_part_on_another_device_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    model = Model()
    network = data_parallel(model)
    assert network is not model
    network(torch.ones(1, 2)).sum().backward()
    assert model.trained.weight.grad is not None
    assert model.text.weight.is_meta
