"""The teacher: an exponential moving average of the student's head, which labels generated images (section 3.3)."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clouds.errors import UserError
from clouds.modeling.compilation import compile_forward

StateDict = dict[str, Tensor]


class Teacher:
    """Moving average of a head over its training: each update sets teacher <- decay * teacher + (1 - decay) * student.

    It is not a module, so that it enters neither the state dict of a model nor its optimizer nor data-parallel
    training. A checkpoint stores it under a key of its own.
    """

    def __init__(self, decay: float, *, compiled: bool = False) -> None:
        """
        Args:
            decay: weight of the teacher in an update, in [0, 1]; the student has the rest.
            compiled: whether to compile the head with `torch.compile`.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; it must be in [0, 1]")
        self.decay = decay
        self.compiled = compiled
        self._average = get_ema_multi_avg_fn(decay)
        self._head: nn.Module | None = None
        self._restored: StateDict | None = None

    @property
    def head(self) -> nn.Module:
        """The averaged head, in evaluation mode and without gradients.

        Raises:
            RuntimeError: `start` has not been called.
        """
        if self._head is None:
            raise RuntimeError("the teacher has no head before start()")
        return self._head

    def start(self, head: nn.Module) -> None:
        """Copy the student's `head`; if a state was loaded, put that state into the copy.

        Raises:
            UserError: the loaded state belongs to another head.
        """
        copied = copy.deepcopy(head).requires_grad_(False).eval()
        if self._restored is not None:
            try:
                copied.load_state_dict(self._restored)
            except RuntimeError as error:
                raise UserError(
                    "The checkpoint's teacher is a copy of another head than this model's: check MODEL.* against the "
                    "config it was trained with."
                ) from error
        if self.compiled:  # a copy of a compiled module is not compiled
            compile_forward(copied)
        self._head, self._restored = copied, None

    def update(self, head: nn.Module) -> None:
        """Move towards the student's `head`. Integer buffers, such as counters, are copied."""
        averaged: list[tuple[Tensor, Tensor]] = []
        for ours, theirs in zip(_tensors(self.head), _tensors(head), strict=True):
            if ours.is_floating_point():
                averaged.append((ours, theirs))
            else:
                ours.copy_(theirs)
        # Computed as teacher + (1 - decay) * (student - teacher): an update with itself changes no bit.
        teacher, student = zip(*averaged, strict=True)
        self._average(teacher, student, None)

    def state_dict(self) -> StateDict:
        """Return the tensors of the averaged head."""
        return self.head.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned. Takes effect at the next `start`, which provides the structure."""
        self._restored = state


def _tensors(head: nn.Module) -> Iterator[Tensor]:
    """Yield all parameters, then all buffers."""
    for parameter in head.parameters():
        yield parameter.detach()
    yield from head.buffers()
