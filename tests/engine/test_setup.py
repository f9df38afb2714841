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


def test_device_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU"):
        resolve_device(load_config(None, ["MODEL.DEVICE", "cuda:0"]))


def test_device_unknown():
    cfg = get_config()
    cfg.MODEL.DEVICE = "gpu"
    with pytest.raises(UserError, match=r"MODEL\.DEVICE is 'gpu', which torch does not know"):
        resolve_device(cfg)
