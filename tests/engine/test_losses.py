"""Losses of several processes, and the step of a loss that is not finite."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clouds.d2 import CfgNode, comm
from clouds.engine.losses import NonFiniteLoss, describe_failure, mean_losses, stop_training
from clouds.engine.trainer import Trainer
from tests.engine.test_resume import train

NAN = float("nan")


def test_the_mean_over_processes_is_that_of_exact_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {"a": torch.tensor(0.1), "b": torch.tensor(3.0)}
    assert mean_losses(losses).tolist() == [losses["a"].item(), 3.0, 0]
    assert mean_losses(losses, stop=True).tolist()[-1] == 1
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    other = torch.tensor([0.3, NAN, 1])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.add_(other))
    means = mean_losses(losses).tolist()
    assert means[0] == (losses["a"].item() + other[0].item()) / 2
    assert means[1] != means[1], "a failure in one process shows in all"
    assert means[2] == 0.5, "so does a request to stop"


def test_the_failures_of_all_processes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_failure({"a": torch.tensor(NAN), "b": torch.tensor(1.0)}) == "a = nan"
    monkeypatch.setattr(comm, "all_gather", lambda own: ["", own, "b = inf on 2.png"])
    with pytest.raises(NonFiniteLoss, match=r"iteration 7: a = nan on 0.png, 1.png; b = inf on 2.png; rest.$"):
        stop_training([{"file_name": "0.png"}, {"file_name": "1.png"}], "a = nan", iteration=7, remedy="rest")


def state(trainer: Trainer) -> list[Tensor]:
    moments = [value for moments in trainer.optimizer.state.values() for value in moments.values()]
    return [x.clone() for x in [*trainer.model.state_dict().values(), *moments]]


@pytest.mark.parametrize("failing", [0, 2])
@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD", "own"])
@pytest.mark.parametrize("half", [False, True])
def test_a_loss_that_is_not_finite_changes_nothing(
    tiny_cfg: CfgNode, tmp_path: Path, failing: int, optimizer: str, half: bool
) -> None:
    """Its gradients are finite, so that nothing but the flag stops the step."""
    trainers: list[Trainer] = []

    class Failing(Trainer):
        @classmethod
        def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
            if optimizer != "own":
                return super().build_optimizer(cfg, model)
            # It is not fused, and cannot skip a step on a device.
            return torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], lr=cfg.SOLVER.BASE_LR)

        def run_step(self) -> None:
            if self.iter == failing:
                trainers.append(self)
                self.before = state(self)
                self.network.register_forward_hook(lambda _, batch, losses: losses | {"loss_b": torch.tensor(NAN)})
            super().run_step()

    options = [
        "SOLVER.OPTIMIZER",
        "SGD" if optimizer == "own" else optimizer,
        "SOLVER.AMP.ENABLED",
        half,
        "SOLVER.AMP.DTYPE",
        "float16",
    ]
    tiny_cfg.merge_from_list([*options, "TEST.EVAL_PERIOD", 0])
    with pytest.raises(NonFiniteLoss, match=rf"iteration {failing}: loss_b = nan on .*/train/images/"):
        train(tiny_cfg, tmp_path, kind=Failing)
    [trainer] = trainers
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainer.model.sem_seg_head.parameters())
    after = state(trainer)
    if failing == 0 and optimizer != "SGD":  # its state begins with the first step
        assert not any(moment.any() for moment in after[len(trainer.before) :])
        del after[len(trainer.before) :]
    assert all(torch.equal(a, b) for a, b in zip(after, trainer.before, strict=True))


def test_losses_are_read_once_after_the_update(
    tiny_cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Watched(Trainer):
        def run_step(self) -> None:
            super().run_step()
            steps.append([*events])

        def label(self, batch: list[dict]) -> list[dict]:
            events.clear()  # the loader's
            return super().label(batch)

        def update(self, skip: Tensor) -> None:
            super().update(skip)
            events.append("update")

    steps: list[list[str]] = []
    for reader in ("tolist", "item", "cpu", "__bool__", "__float__"):
        read = getattr(Tensor, reader)
        monkeypatch.setattr(Tensor, reader, lambda x, read=read: events.append("read") or read(x))
    tiny_cfg.merge_from_list(["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 0])
    train(tiny_cfg, tmp_path, kind=Watched)
    assert steps == [["update", "read"]] * 2
