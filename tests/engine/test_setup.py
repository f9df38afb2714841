"""Resolution of MODEL.DEVICE."""

import pytest
import torch

from clouds.config import get_config, load_config
from clouds.engine.setup import resolve_device
from clouds.errors import UserError


@pytest.mark.parametrize(
    ("wanted", "gpu", "resolved"), [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_device(monkeypatch, wanted, gpu, resolved):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cfg = load_config(None, ["MODEL.DEVICE", wanted])
    resolve_device(cfg)
    assert cfg.MODEL.DEVICE == resolved


@pytest.mark.parametrize("name", ["cuda:0", "cuda", "cuda:7", "mps", "xpu", "meta"])
def test_device_missing(monkeypatch, name):
    for module in (torch.cuda, torch.mps, torch.xpu):
        monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"MODEL.DEVICE is {name}, but torch finds no such (GPU|device): use auto"):
        resolve_device(load_config(None, ["MODEL.DEVICE", name]))


def test_device_beyond_the_last_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    resolve_device(load_config(None, ["MODEL.DEVICE", "cuda:1"]))
    with pytest.raises(UserError, match="cuda:2, but torch finds no such GPU"):
        resolve_device(load_config(None, ["MODEL.DEVICE", "cuda:2"]))


def test_device_unknown():
    cfg = get_config()
    cfg.MODEL.DEVICE = "gpu"
    with pytest.raises(UserError, match=r"MODEL\.DEVICE is 'gpu', which torch does not know"):
        resolve_device(cfg)
