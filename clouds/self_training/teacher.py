"""The teacher: an exponential moving average of the student's head, which labels the generated images (section 3.3)."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clouds.errors import UserError

StateDict = dict[str, Tensor]


class Teacher:
    """The average of a head over its training: with every `update`, teacher <- decay * teacher + (1 - decay) * student.

    Not a module on purpose: assigned to a model it enters neither its state dict nor what is trained or synchronised.
    It is a checkpoint's part of its own.
    """

    def __init__(self, decay: float) -> None:
        """
        Args:
            decay: share of itself that the teacher keeps in an update, 0..1.
        """
        if not 0 <= decay <= 1:
            raise UserError(f"MODEL.CLOUDS.SAM.ALPHA_EMA is {decay}: the share that the teacher keeps lies in 0..1.")
        self.decay = decay
        self._average = get_ema_multi_avg_fn(decay)
        self._head: nn.Module | None = None
        self._restored: StateDict | None = None

    @property
    def head(self) -> nn.Module:
        """The averaged head, in eval mode and without gradients; there is one after `start`."""
        if self._head is None:
            raise RuntimeError("the teacher has no head before start()")
        return self._head

    def start(self, head: nn.Module) -> None:
        """Become a copy of the student's `head`; where a state was loaded, that state in a head of this structure.

        Raises:
            UserError: the loaded state is that of another head.
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
        self._head, self._restored = copied, None

    def update(self, head: nn.Module) -> None:
        """Move towards the student's `head`; buffers that are no floating-point numbers (counters) are copied."""
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
        """The head's tensors."""
        return self.head.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Continue as the teacher that gave `state`; takes effect with the next `start`, which knows the structure."""
        self._restored = state


def _tensors(head: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, each once."""
    for parameter in head.parameters():
        yield parameter.detach()
    yield from head.buffers()
