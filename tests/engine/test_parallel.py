"""Data-parallel training of models whose frozen parts lie on several devices, and of compiled models."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

import clouds.clouds
from clouds.d2 import build_model, comm
from clouds.engine.parallel import data_parallel
from clouds.modeling.compilation import compile_forward
from tests.parity import golden


@contextlib.contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """Form a group of this process alone, with a file in `folder`."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def wrapped(model: nn.Module) -> nn.Module:
    """Wrap a model as if there were two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comm, "get_world_size", lambda: 2)
        network = data_parallel(model)
    assert network is not model
    return network


class Model(nn.Module):
    """A trained layer, and a frozen one on another device that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Linear(2, 2)
        self.text = nn.Linear(2, 2, device="meta").requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.trained(x)


def test_a_frozen_part_on_another_device_stays_there(tmp_path: Path) -> None:
    model = Model()
    with process_group(tmp_path):
        wrapped(model)(torch.ones(1, 2)).sum().backward()
    assert model.trained.weight.grad is not None
    assert model.text.weight.is_meta


def test_a_compiled_model_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(clouds.clouds, "compile_forward", functools.partial(compile_forward, backend="eager"))
    layers = ("MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1)
    plain, compiled = (
        build_model(golden.golden_config("rn_closed", "MODEL.COMPILE", flag, *layers)).train() for flag in (False, True)
    )
    compiled.load_state_dict(plain.state_dict())
    batch = [{**x, "canvas": (96, 128)} for x in golden.batch()]
    torch.manual_seed(0)
    sum(plain(batch).values()).backward()
    torch.manual_seed(0)
    with process_group(tmp_path):
        sum(wrapped(compiled)(batch).values()).backward()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
