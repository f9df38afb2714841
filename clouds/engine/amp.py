"""Mixed precision: what a network computes in, and the scaling that keeps float16 gradients above zero."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from clouds.d2 import CfgNode
from clouds.errors import UserError

logger = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """Full precision, or mixed with bfloat16 or float16: the weights stay float32, autocast chooses the operations.

    Attributes:
        device: type of the device, such as "cuda".
        dtype: of the operations that autocast chooses; None: full precision.
    """

    def __init__(self, device: str, dtype: torch.dtype | None = None) -> None:
        self.device = torch.device(device).type
        self.dtype = dtype

    @classmethod
    def from_config(cls, cfg: CfgNode, enabled: bool) -> "Precision":
        """What ``SOLVER.AMP.DTYPE`` stands for on ``MODEL.DEVICE``, where it is `enabled`."""
        if not enabled:
            return cls(cfg.MODEL.DEVICE)
        wanted, device = cfg.SOLVER.AMP.DTYPE, torch.device(cfg.MODEL.DEVICE).type
        if wanted == "auto" and device != "cuda":
            logger.info(
                f"Mixed precision does not pay on {device}: computing in full precision (SOLVER.AMP.DTYPE auto)"
            )
            return cls(device)
        if wanted == "auto":
            # Emulated bfloat16 is slower than no mixed precision at all.
            wanted = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        if wanted not in DTYPES:
            raise UserError(f"SOLVER.AMP.DTYPE is '{wanted}': use auto, bfloat16 or float16.")
        logger.info(f"Mixed precision: {wanted}{' with loss scaling' if wanted == 'float16' else ''}")
        return cls(device, DTYPES[wanted])

    def autocast(self) -> AbstractContextManager[Any]:
        """Context to run a network in."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def build_scaler(self) -> "LossScaler":
        """Scaler of the losses; it does something with float16 alone, the other types have float32's range."""
        return LossScaler(self.device, enabled=self.dtype is torch.float16)


class LossScaler(torch.amp.GradScaler):
    """torch's scaler, which skips a step whose gradient overflowed and halves the scale, and says so.

    An overflow is no fault of the network: large scales are tried on purpose. One at a scale below 1 is: there the
    gradient itself is out of range.
    """

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Adapt the scale after a step; FloatingPointError where no scale helps."""
        if not self.is_enabled():
            return
        before = self.get_scale()
        super().update(new_scale)
        after = self.get_scale()
        if after >= before:
            return
        if after < 1:
            raise FloatingPointError("the gradient is not finite, whatever the loss scale")
        logger.info(
            f"The gradient overflowed at loss scale {before:g}: step skipped, the scale is {after:g} from now on"
        )
