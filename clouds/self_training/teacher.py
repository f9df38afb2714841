"""The teacher: an exponential moving average of the student, which labels generated images (section 3.3)."""

from torch import nn

from clouds.modeling.frozen import BACKBONE
from clouds.modeling.moving_average import MovingAverage, StateDict

HEAD = "sem_seg_head."  # prefix of the head's names; the state of a teacher leaves it out


class Teacher(MovingAverage):
    """Moving average of a student over its training; its `model` labels generated images.

    On a frozen backbone it averages the head, as published; everything else is the student's. With trained parameters
    in the backbone, those of the tower or of an adapter, it averages all that is trained: these, the head and the
    embedding of "no object". Its features are then computed by its own backbone, which shares the frozen tensors.
    """

    def averaged_names(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters and buffers that are averaged."""
        names = super().averaged_names(model)
        if any(name.startswith(BACKBONE) for name in names):
            return names
        return {name for name in names if name.startswith(HEAD)}

    def state_of(self, model: nn.Module) -> StateDict:
        """Return the state that a teacher of a student has at its start, with the tensors of the student."""
        return _relative(super().state_of(model))

    def state_dict(self) -> StateDict:
        """Return the averaged tensors by name; names of the head's are relative to it, as in published trainings."""
        return _relative(super().state_dict())


def _relative(state: StateDict) -> StateDict:
    """Return a state with the names of the head's tensors relative to the head."""
    return {name.removeprefix(HEAD): value for name, value in state.items()}
