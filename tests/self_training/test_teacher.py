"""The moving average, number by number, and its state in a checkpoint."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clouds.errors import UserError
from clouds.self_training.teacher import Teacher

# The difference of two larger numbers could overflow.
NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=12)
LEAST = 2.0**-149  # the smallest positive number of float32


class Numbers(nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))
        self.register_buffer("statistic", torch.tensor(values[::-1]), persistent=False)


def head(seed: int = 0, width: int = 4) -> nn.Module:
    """Build a head with a norm that has statistics and a counter, dropout, and a scalar parameter."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 2))
    module.scale = nn.Parameter(torch.rand(()))
    module(torch.rand(8, 3))
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@given(NUMBERS, st.floats(0, 1), st.integers(0, 1))
def test_between_teacher_and_student(values: list[float], decay: float, turn: int) -> None:
    teacher = Teacher(decay)
    teacher.start(Numbers(values))
    student = Numbers(values[turn:] + values[:turn])
    teacher.update(student)
    old = Numbers(values)
    for name in ("values", "statistic"):
        before, towards, now = (getattr(module, name).detach() for module in (old, student, teacher.head))
        assert (now >= torch.minimum(before, towards)).all()
        assert (now <= torch.maximum(before, towards)).all()
        wanted = decay * before.double() + (1 - decay) * towards.double()
        size = float(before.abs().max())
        torch.testing.assert_close(now.double(), wanted, rtol=1e-6, atol=1e-6 * size + LEAST)
        if decay in (0, 1) or turn == 0:
            assert torch.equal(now, towards if decay == 0 else before)


def test_a_copy_that_predicts() -> None:
    student = head()
    teacher = Teacher(0.5)
    with pytest.raises(RuntimeError, match="before start"):
        teacher.update(student)
    teacher.start(student)
    assert same(teacher.head, student)
    student(torch.rand(8, 3)).sum().backward()
    with torch.no_grad():
        student.scale.add_(1)
    assert teacher.head.scale.item() == pytest.approx(student.scale.item() - 1), "memory of its own"
    assert not any(module.training for module in teacher.head.modules()), "nor dropout"
    assert all(module.training for module in student.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.head.parameters())
    assert not isinstance(teacher, nn.Module)


def test_counters_are_copied_and_statistics_averaged() -> None:
    student = head()
    teacher = Teacher(0.75)
    teacher.start(student)
    before = teacher.head[1].running_mean.clone()
    student(torch.rand(8, 3) + 1)
    teacher.update(student)
    assert teacher.head[1].num_batches_tracked == student[1].num_batches_tracked == 2
    torch.testing.assert_close(teacher.head[1].running_mean, before.lerp(student[1].running_mean, 0.25))
    assert not torch.equal(before, student[1].running_mean)
    assert all(p.requires_grad for p in student.parameters())


def test_an_update_with_itself_changes_no_bit() -> None:
    student = head()
    teacher = Teacher(0.999)
    teacher.start(student)
    teacher.update(student)
    assert same(teacher.head, student)


def test_a_state_comes_back_to_the_bit() -> None:
    first, student = Teacher(0.9), head(1)
    first.start(head(0))
    first.update(student)
    state = {key: value.clone() for key, value in first.state_dict().items()}

    second = Teacher(0.9)
    second.load_state_dict(state)
    second.start(student)
    assert same(second.head, first.head)
    for teacher in (first, second):
        teacher.update(head(2))
    assert same(second.head, first.head)
    assert not same(second.head, student)

    second.start(student)
    assert same(second.head, student), "a state is used once"


def test_the_state_of_another_head_is_refused() -> None:
    narrow, teacher = Teacher(0.9), Teacher(0.9)
    narrow.start(head(width=3))
    teacher.load_state_dict(narrow.state_dict())
    with pytest.raises(UserError, match="teacher is a copy of another head"):
        teacher.start(head())


@pytest.mark.parametrize("decay", [-0.1, 1.001, math.nan])
def test_a_share_lies_between_zero_and_one(decay: float) -> None:
    with pytest.raises(ValueError, match=r"^decay is "):
        Teacher(decay)
