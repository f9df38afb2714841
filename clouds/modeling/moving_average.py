"""The exponential moving average of a model: one mechanism for the teacher and for evaluation with averaged weights."""

import copy
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clouds.errors import UserError
from clouds.modeling.compilation import compile_forward
from clouds.modeling.frozen import BACKBONE, frozen_names, named_tensors
from clouds.utils.tensors import StateDict

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class MovingAverage:
    """Copy of a model whose trained tensors are moving averages of the model's.

    Each update sets average <- decay * average + (1 - decay) * model. The copy shares all other tensors with the model,
    and a frozen backbone as a whole. It is not a submodule, so that it enters neither the state dict of the model nor
    its optimizer nor data-parallel training. A checkpoint stores it under a key of its own.
    """

    def __init__(self, decay: float, *, compiled: bool = False) -> None:
        """
        Args:
            decay: weight of the average in an update, in [0, 1]; the model has the rest.
            compiled: whether to compile backbone and head of the copy with `torch.compile`.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; it must be in [0, 1]")
        self.decay = decay
        self.compiled = compiled
        self._average = get_ema_multi_avg_fn(decay)
        self._model: nn.Module | None = None
        self._names: set[str] = set()
        self._restored: StateDict | None = None

    @property
    def model(self) -> Any:
        """The copy, in evaluation mode; its averaged tensors have no gradient.

        Raises:
            RuntimeError: `start` has not been called.
        """
        if self._model is None:
            raise RuntimeError("a moving average has no model before start()")
        return self._model

    def averaged_names(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters and buffers that are averaged: all but the frozen ones of the backbone."""
        return {name for name, _ in named_tensors(model)} - frozen_names(model)

    def start(self, model: nn.Module) -> None:
        """Copy a model; if a state was loaded, put that state into the copy.

        Raises:
            UserError: the loaded state belongs to another model.
        """
        self._names = self.averaged_names(model)
        shared: dict[int, Any] = {
            id(tensor): tensor for name, tensor in named_tensors(model) if name not in self._names
        }
        if not any(name.startswith(BACKBONE) for name in self._names):
            # With what it has cached, such as its copy for mixed precision.
            shared |= {id(child): child for name, child in model.named_children() if f"{name}." == BACKBONE}
        # Hooks of the model itself belong to its observers; those of its parts are how they compute.
        shared |= {id(getattr(model, name)): OrderedDict() for name in _HOOKS}
        copied = copy.deepcopy(model, shared).eval()
        for name, parameter in copied.named_parameters():
            if name in self._names:
                parameter.requires_grad_(False)
        self._model = copied
        if self._restored is not None:
            self._restore(self._restored)
            self._restored = None
        if self.compiled:  # a copy of a compiled module is not compiled
            for child in {name.partition(".")[0] for name in self._names} & {"backbone", "sem_seg_head"}:
                compile_forward(getattr(copied, child))

    def update(self, model: nn.Module) -> None:
        """Move towards a model. Integer buffers, such as counters, are copied."""
        theirs = dict(named_tensors(model))
        averaged: dict[int, tuple[Tensor, Tensor]] = {}
        for name, ours in named_tensors(self.model):
            if name not in self._names:
                continue
            if ours.is_floating_point():
                averaged[id(ours)] = ours.detach(), theirs[name].detach()
            else:
                ours.copy_(theirs[name])
        # Computed as average + (1 - decay) * (model - average): an update with itself changes no bit.
        average, new = zip(*averaged.values(), strict=True)
        self._average(average, new, None)

    def state_of(self, model: nn.Module) -> StateDict:
        """Return the state that the average of a model has at its start, with the tensors of the model."""
        names = self.averaged_names(model)
        return {name: value for name, value in model.state_dict().items() if name in names}

    def state_dict(self) -> StateDict:
        """Return the averaged tensors by name."""
        return {name: value for name, value in self.model.state_dict().items() if name in self._names}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned. Takes effect at the next `start`, which provides the structure."""
        self._restored = state

    def _restore(self, state: StateDict) -> None:
        own = self.state_dict()
        for key, value in state.items():
            if key not in own or own[key].shape != value.shape:
                raise UserError(
                    f"The moving average in the checkpoint is that of another model ({key}): check MODEL.* against the "
                    "config it was trained with."
                )
            own[key].copy_(value)
