"""Mixed precision: the number type of the operations, and loss scaling, which keeps float16 gradients above zero."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

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
        if wanted == "auto" and device != "cuda":
            logger.info(f"Full precision: on {device}, mixed precision is not faster (SOLVER.AMP.DTYPE auto)")
            return cls(device)
        if wanted == "auto":
            # Emulated bfloat16 is slower than full precision.
            wanted = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        logger.info(f"Mixed precision: {wanted}{' with loss scaling' if wanted == 'float16' else ''}")
        return cls(device, DTYPES[wanted])

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which a network computes."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def build_scaler(self) -> "LossScaler":
        """Return a scaler of the losses, enabled for float16 only: the other types have the range of float32."""
        return LossScaler(self.device, enabled=self.dtype is torch.float16)


class LossScaler(torch.amp.GradScaler):
    """torch's scaler, which skips a step whose gradient overflows and halves the scale, with a log line.

    An overflow is expected, since the scaler tries large scales. An overflow at a scale below 1 is an error: the
    gradient itself is out of range.
    """

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Adapt the scale after a step.

        Raises:
            FloatingPointError: the gradient overflows at every scale.
        """
        if not self.is_enabled():
            return
        before = self.get_scale()
        super().update(new_scale)
        after = self.get_scale()
        if after >= before:
            return
        if after < 1:
            raise FloatingPointError("the gradient is not finite, whatever the loss scale")
        logger.info(f"The gradient overflowed at loss scale {before:g}: step skipped, the scale is now {after:g}")
