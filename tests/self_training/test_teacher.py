"""The moving average, number by number, and its state in a checkpoint."""

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clouds.engine.checkpointing.states import fitted_state
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


class Student(nn.Module):
    def __init__(self, head: nn.Module, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.sem_seg_head = backbone, head
        self.void_embedding = nn.Embedding(1, 3)


def head(seed: int = 0, width: int = 4) -> nn.Module:
    """Build a head with a norm that has statistics and a counter, dropout, and a scalar parameter."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 2))
    module.scale = nn.Parameter(torch.rand(()))
    module(torch.rand(8, 3))
    return module


def averaged(teacher: Teacher) -> nn.Module:
    return teacher.model.sem_seg_head


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@given(NUMBERS, st.floats(0, 1), st.integers(0, 1))
def test_between_teacher_and_student(values: list[float], decay: float, turn: int) -> None:
    teacher = Teacher(decay)
    teacher.start(Student(Numbers(values)))
    student = Numbers(values[turn:] + values[:turn])
    teacher.update(Student(student))
    old = Numbers(values)
    for name in ("values", "statistic"):
        before, towards, now = (getattr(module, name).detach() for module in (old, student, averaged(teacher)))
        assert (now >= torch.minimum(before, towards)).all()
        assert (now <= torch.maximum(before, towards)).all()
        wanted = decay * before.double() + (1 - decay) * towards.double()
        size = float(before.abs().max())
        torch.testing.assert_close(now.double(), wanted, rtol=1e-6, atol=1e-6 * size + LEAST)
        if decay in (0, 1) or turn == 0:
            assert torch.equal(now, towards if decay == 0 else before)


def test_a_copy_that_predicts() -> None:
    student = head()
    model, teacher = Student(student), Teacher(0.5)
    with pytest.raises(RuntimeError, match="before start"):
        teacher.update(model)
    teacher.start(model)
    assert same(averaged(teacher), student)
    student(torch.rand(8, 3)).sum().backward()
    with torch.no_grad():
        student.scale.add_(1)
    assert averaged(teacher).scale.item() == pytest.approx(student.scale.item() - 1), "memory of its own"
    assert not any(module.training for module in averaged(teacher).modules()), "nor dropout"
    assert all(module.training for module in student.modules())
    assert not any(p.requires_grad or p.grad is not None for p in averaged(teacher).parameters())
    assert not isinstance(teacher, nn.Module)


def test_counters_are_copied_and_statistics_averaged() -> None:
    student = head()
    model, teacher = Student(student), Teacher(0.75)
    teacher.start(model)
    before = averaged(teacher)[1].running_mean.clone()
    student(torch.rand(8, 3) + 1)
    teacher.update(model)
    assert averaged(teacher)[1].num_batches_tracked == student[1].num_batches_tracked == 2
    torch.testing.assert_close(averaged(teacher)[1].running_mean, before.lerp(student[1].running_mean, 0.25))
    assert not torch.equal(before, student[1].running_mean)
    assert all(p.requires_grad for p in student.parameters())


def test_an_update_with_itself_changes_no_bit() -> None:
    student = Student(head())
    teacher = Teacher(0.999)
    teacher.start(student)
    teacher.update(student)
    assert same(averaged(teacher), student.sem_seg_head)


def test_a_state_comes_back_to_the_bit() -> None:
    first, student = Teacher(0.9), Student(head(1))
    first.start(Student(head(0)))
    first.update(student)
    state = {key: value.clone() for key, value in first.state_dict().items()}
    assert state.keys() == head().state_dict().keys(), "names in the head"

    second = Teacher(0.9)
    second.load_state_dict(state)
    second.start(student)
    assert same(averaged(second), averaged(first))
    for teacher in (first, second):
        teacher.update(Student(head(2)))
    assert same(averaged(second), averaged(first))
    assert not same(averaged(second), student.sem_seg_head)

    second.start(student)
    assert same(averaged(second), student.sem_seg_head), "a state is used once"


def test_the_state_of_another_head_is_refused() -> None:
    narrow, teacher = Teacher(0.9), Teacher(0.9)
    narrow.start(Student(head(width=3)))
    teacher.load_state_dict(narrow.state_dict())
    with pytest.raises(UserError, match=r"moving average in the checkpoint is that of another model"):
        teacher.start(Student(head()))


class Tower(nn.Module):
    """A frozen layer and norm, an adapter that changes their result in a hook, and a position table."""

    def __init__(self, *, adapted: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False)
        self.register_buffer("positions", torch.rand(3), persistent=False)
        if adapted:
            self.adapter = nn.Linear(3, 3)
            self.layers.register_forward_hook(self.adapt)

    def adapt(self, module: nn.Module, args: object, result: torch.Tensor) -> torch.Tensor:
        return result + self.adapter(result)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x + self.positions)


def storages(module: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}


def test_a_frozen_backbone_is_the_students() -> None:
    student, teacher = Student(head(), Tower(adapted=False).eval()), Teacher(0.5)
    teacher.start(student)
    copied = teacher.model
    assert copied.backbone is student.backbone
    assert copied.void_embedding.weight is student.void_embedding.weight, "as published, also where it is trained"
    assert student.void_embedding.weight.requires_grad
    with torch.no_grad():
        student.void_embedding.weight.add_(1)
    before = student.void_embedding.weight.clone()
    teacher.update(student)
    assert torch.equal(student.void_embedding.weight, before)


def test_an_adapted_backbone_is_averaged_and_shares_what_is_frozen() -> None:
    student, teacher = Student(head(), Tower(adapted=True)), Teacher(0.5)
    student.backbone.layers.eval()
    teacher.start(student)
    copied, x = teacher.model, torch.rand(4, 3)
    trained = {p.data_ptr() for p in student.parameters() if p.requires_grad}
    trained |= {b.data_ptr() for b in student.sem_seg_head.buffers()}
    assert storages(copied) & storages(student) >= {t.data_ptr() for t in student.backbone.layers.state_dict().values()}
    assert not storages(copied) & trained
    assert set(teacher.state_dict()) == {
        *(name for name in head().state_dict()),
        *("backbone.adapter.weight", "backbone.adapter.bias", "void_embedding.weight"),
    }
    before = copied.backbone(x)
    with torch.no_grad():
        student.backbone.adapter.weight.add_(1)
        student.void_embedding.weight.add_(1)
        old = copied.void_embedding.weight.clone()
    assert torch.equal(copied.backbone(x), before), "the hook of the copy uses the adapter of the copy"
    assert not torch.equal(student.backbone(x), before)
    teacher.update(student)
    torch.testing.assert_close(copied.backbone(x), (before + student.backbone(x)) / 2)
    torch.testing.assert_close(copied.void_embedding.weight, old + 0.5)
    assert not any(p.requires_grad for p in copied.parameters())


def test_who_observes_the_student_is_not_copied() -> None:
    student, teacher = Student(head(), Tower(adapted=False)), Teacher(0.5)
    loader = iter(torch.utils.data.DataLoader([1]))  # cannot be copied
    student.register_forward_hook(functools.partial(print, loader))
    teacher.start(student)
    assert not teacher.model._forward_hooks
    assert len(student._forward_hooks) == 1


@pytest.mark.parametrize("adapted", [False, True])
def test_the_state_of_a_teacher_of_the_head_alone_loads(adapted: bool) -> None:
    older, student = Teacher(0.5), Student(head(1), Tower(adapted=adapted))
    older.start(Student(head(0), Tower(adapted=False)))
    state = {key: value.clone() for key, value in older.state_dict().items()}
    teacher = Teacher(0.5)
    teacher.load_state_dict(fitted_state(teacher, state, "teacher", student))
    teacher.start(student)
    assert same(averaged(teacher), older.model.sem_seg_head)
    if adapted:
        assert torch.equal(teacher.model.backbone.adapter.weight, student.backbone.adapter.weight)
        with pytest.raises(ValueError, match=r"teacher lacks 'backbone\.adapter\.bias'"):
            fitted_state(teacher, {**state, "backbone.adapter.weight": torch.zeros(3, 3)}, "teacher", student)


@pytest.mark.parametrize("decay", [-0.1, 1.001, math.nan])
def test_a_share_lies_between_zero_and_one(decay: float) -> None:
    with pytest.raises(ValueError, match=r"^decay is "):
        Teacher(decay)
