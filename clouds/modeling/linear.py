"""Linear layers that compute with oneDNN on processors where torch's matrix products are slow."""

import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OneDNNLinear(nn.Linear):
    """Linear layer whose products of float32 numbers on a CPU are those of oneDNN; equal up to rounding.

    Under autocast, on other devices and while it is compiled, it is torch's own layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        own = input.device.type != "cpu" or input.dtype is not torch.float32 or not input.numel()
        if own or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super().forward(input)
        return F.linear(input.to_mkldnn(), self.weight, self.bias).to_dense()


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of a model compute with oneDNN, in place; parameters and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:  # a subclass may compute something else
            module.__class__ = OneDNNLinear


def onednn_is_faster() -> bool:
    """Return whether oneDNN multiplies float32 matrices faster than MKL, which torch uses.

    MKL does not use all instructions of AMD's processors. The answer depends on the processor, not on a measurement,
    so that a run that is resumed computes with the same bits.
    """
    return torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and "AuthenticAMD" in _processor()


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return platform.processor()
