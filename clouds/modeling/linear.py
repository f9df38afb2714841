"""Linear layers that compute with oneDNN on processors where torch's matrix products are slow."""

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class OneDNNLinear(nn.Linear):
    """Linear layer whose products of float32 numbers on a CPU are those of oneDNN; equal up to rounding.

    Under autocast, on other devices and while it is compiled, it is torch's own layer. It has no second derivative.

    Attributes:
        uses_onednn: whether oneDNN computes the products. A subclass may start with False; `use_onednn` sets True.
    """

    uses_onednn = True

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return self.product(input, self.weight, self.bias)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute ``x @ weight.T + bias`` for (..., C) and (D, C); returns (..., D)."""
        own = not self.uses_onednn or x.device.type != "cpu" or x.dtype is not torch.float32
        if own or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not x.numel():
            return F.linear(x, weight, bias)
        rows: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
        return rows.unflatten(0, x.shape[:-1]) if x.dim() > 1 else rows[0]


def maps_channels(module: nn.Module) -> bool:
    """Return whether a module is a linear layer or a pointwise convolution, and no subclass of them."""
    if type(module) is nn.Conv2d:
        return (module.kernel_size, module.stride, module.padding, module.groups) == ((1, 1), (1, 1), (0, 0), 1)
    return type(module) in (nn.Linear, OneDNNLinear)  # another subclass may compute something else


class _Linear(torch.autograd.Function):
    """Linear map of (N, in_features) that saves its inputs as they are.

    torch's own function on tensors in oneDNN's layout converts, and saves, a copy of each input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad = grad.contiguous()  # it may be expanded
        return (
            product(grad, weight.T) if needs_x else None,
            product(grad.T, x.T) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias`` with oneDNN, for (N, C) and (D, C) float32; returns (N, D)."""
    # The operator that torch.compile uses on CPUs: it takes and returns ordinary tensors.
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of a model compute with oneDNN, in place; parameters and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:  # a subclass may compute something else
            module.__class__ = OneDNNLinear
        elif isinstance(module, OneDNNLinear):
            module.uses_onednn = True


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
