"""Devices of torch."""

import torch


def is_usable(device: torch.device) -> bool:
    """Return whether this machine has a device, and its tensors have values (those on `meta` have none)."""
    if device.type == "cpu":
        return True
    if device.type not in ("cuda", "mps", "xpu"):
        return False
    module = torch.get_device_module(device.type)
    return module.is_available() and (device.index or 0) < module.device_count()
