"""The training loop of the miniatures: settings, updates, saved states."""

import dataclasses

import pytest
import torch
from minicity.training.loop import TrainingSettings, fit, train_resumably
from torch import nn

from clouds.errors import UserError


def test_learning_rate_rises_linearly_then_falls_with_half_a_cosine():
    settings = TrainingSettings(steps=100, learning_rate=1.0, warmup=10)
    assert settings.rate(0) == pytest.approx(0.1)
    assert settings.rate(50) == pytest.approx(0.5)
    assert 0 < settings.rate(99) < 0.001


def test_identity_leaves_out_what_may_change():
    settings = TrainingSettings(steps=4, learning_rate=1.0)
    assert settings.identity() == dataclasses.replace(settings, save_every=7).identity()
    assert settings.identity() != dataclasses.replace(settings, steps=5).identity()


def test_fit_scales_the_rate_of_every_group_and_clips_gradients(tmp_path):
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.zero_()
    settings = TrainingSettings(steps=2, learning_rate=0.5, warmup=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=settings.learning_rate)
    updates = []
    fit(
        module,
        lambda step: 100 * module.weight.sum(),  # its gradient is clipped to 1
        [optimizer],
        settings,
        state_file=tmp_path / "s.pt",
        name="training",
        data={"images": 3},
        after_update=lambda: updates.append(module.weight.item()),
    )
    assert updates == pytest.approx([-0.5, -0.75])
    assert not module.training
    with pytest.raises(UserError, match="images is 3 instead of 4"):
        fit(module, lambda step: module.weight.sum(), [optimizer], settings, state_file=tmp_path / "s.pt", name="x",
            data={"images": 4})  # fmt: skip


def steps_made(file, identity, *, steps=4, width=1, losses=()):
    made = []

    def update(step):
        made.append(step)
        return torch.tensor(dict(losses).get(step, 1.0))

    stateful = {"part": nn.Linear(width, 1)}
    train_resumably(stateful, update, steps=steps, save_every=2, state_file=file, identity=identity, name="training")
    return made


def test_resumes_from_a_state_of_the_same_training(tmp_path):
    assert steps_made(tmp_path / "s.pt", {"batch_size": 6, "shares": (0.5, 0.5)}, steps=2) == [0, 1]
    assert steps_made(tmp_path / "s.pt", {"shares": (0.5, 0.5), "batch_size": 6}) == [2, 3]


@pytest.mark.parametrize(
    ("identity", "change", "difference"),
    [
        ({"batch_size": 6, "seed": 1}, {}, "seed is 0 instead of 1"),
        ({"batch_size": 6}, {}, "seed is 0 instead of None"),
        ({"batch_size": 6, "seed": 0, "bfloat16": True}, {}, "bfloat16 is None instead of True"),
        ({"batch_size": 6, "seed": 0}, {"steps": 3}, "it has done 4 steps, not 3"),
        ({"batch_size": 6, "seed": 0}, {"width": 2}, "its network differs"),
    ],
)
def test_a_state_of_another_training_is_refused(identity, change, difference, tmp_path):
    file = tmp_path / "s.pt"
    steps_made(file, {"batch_size": 6, "seed": 0})
    with pytest.raises(UserError, match="is the state of another training") as caught:
        steps_made(file, identity, **change)
    assert str(file) in str(caught.value)
    assert difference in str(caught.value)


def test_a_state_without_settings_is_refused(tmp_path):
    steps_made(tmp_path / "s.pt", {})
    state = torch.load(tmp_path / "s.pt")
    del state["identity"]
    torch.save(state, tmp_path / "s.pt")
    with pytest.raises(UserError, match="does not hold its settings"):
        steps_made(tmp_path / "s.pt", {})


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_keeps_the_last_good_state(wrong, tmp_path):
    file = tmp_path / "s.pt"
    with pytest.raises(UserError, match=rf"step 1 is {wrong}.*no state has been saved"):
        steps_made(file, {}, losses={1: wrong})
    assert not file.exists()
    with pytest.raises(UserError, match=rf"step 3 is {wrong}.*{file} holds the last good state"):
        steps_made(file, {}, losses={3: wrong})
    assert steps_made(file, {}) == [2, 3]
