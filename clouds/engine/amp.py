"""Mixed precision: the number type of the operations, and loss scaling, which keeps float16 gradients above zero."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from clouds.d2 import CfgNode

logger = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """Full precision, or mixed precision: weights stay float32, and autocast chooses the type of each operation.

    Attributes:
        device: type of the device, such as "cuda".
        dtype: the smaller type of mixed precision; None = full precision.
    """

    def __init__(self, device: str, dtype: torch.dtype | None = None) -> None:
        self.device = torch.device(device).type
        self.dtype = dtype

    @classmethod
    def from_config(cls, cfg: CfgNode, enabled: bool) -> "Precision":
        """Return full precision if not `enabled`, else the type that ``SOLVER.AMP.DTYPE`` names for the device."""
        if not enabled:
            return cls(cfg.MODEL.DEVICE)
        wanted, device = cfg.SOLVER.AMP.DTYPE, torch.device(cfg.MODEL.DEVICE).type
        if wanted == "auto":
            wanted = "bfloat16" if computes_bfloat16(device) else "float16"
            if wanted == "float16" and device != "cuda":
                logger.info(f"Full precision: this {device} has no bfloat16 instructions (SOLVER.AMP.DTYPE auto)")
                return cls(device)
        logger.info(f"Mixed precision: {wanted}{' with loss scaling' if wanted == 'float16' else ''}")
        return cls(device, DTYPES[wanted])

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which a network computes."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def build_scaler(self) -> "LossScaler":
        """Return a scaler of the losses, enabled for float16 only: the other types have the range of float32."""
        return LossScaler(self.device, enabled=self.dtype is torch.float16)


def computes_bfloat16(device: str) -> bool:
    """Return whether this machine multiplies bfloat16 in hardware; emulation is slower than full precision.

    Args:
        device: type of the device, such as "cuda"; a CPU needs AVX512_BF16 or AMX.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public function for this in all supported versions.
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class LossScaler(torch.amp.GradScaler):
    """torch's scaler, which skips a step whose gradient overflows and halves the scale.

    torch's `get_scale` makes the host wait for the device. Here the host reads the scale with the losses, see `check`.
    """

    _last: float | None = None  # scale that `check` has seen

    def step(self, optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
        """Let an optimizer take its step, unless a gradient overflowed.

        A skipped step changes neither the parameters nor the optimizer's state. torch's fused optimizers skip on the
        device; for any other, the host waits for the flag.

        Args:
            optimizer: any optimizer.
            skip: scalar float on the device of the losses; 1 skips the step whatever the gradients are, 0 does not.
        """
        if self.is_enabled():
            for overflow in self._found_inf_per_device(optimizer).values():
                torch.maximum(overflow, skip.to(overflow), out=overflow)  # a fused optimizer skips at exactly 1
            super().step(optimizer)
            return
        if not getattr(optimizer, "_step_supports_amp_scaling", False):  # torch's mark of those that read `found_inf`
            if not skip:
                optimizer.step()
            return
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]

    def current(self, like: Tensor) -> Tensor:
        """Return the scale as (1,) float on the device of `like`, where the host need not wait for it."""
        scale = self._get_scale_async() if self.is_enabled() else None
        return like.new_ones(1) if scale is None else scale.to(like).reshape(1)

    def check(self, scale: float) -> None:
        """Log a step that was skipped, and refuse a gradient that overflows at every scale.

        An overflow is expected, since the scaler tries large scales. An overflow at a scale below 1 is an error: the
        gradient itself is out of range.

        Args:
            scale: value of `current` after the step.

        Raises:
            FloatingPointError: the gradient overflows at every scale.
        """
        if not self.is_enabled():
            return
        before, self._last = self._init_scale if self._last is None else self._last, scale
        if scale >= before:
            return
        if scale < 1:
            raise FloatingPointError("the gradient is not finite, whatever the loss scale")
        logger.info(f"The gradient overflowed at loss scale {before:g}: step skipped, the scale is now {scale:g}")
