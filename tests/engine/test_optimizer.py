"""Parameter groups, clipping and schedules, compared with the published rules and closed formulas."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clouds.config import get_config
from clouds.engine.checkpointing.states import fitted_state
from clouds.engine.optimizer import (
    build_gradient_clipper,
    build_lr_scheduler,
    build_optimizer,
    learning_rate_factor,
    multi_step_factor,
    parameter_groups,
    poly_factor,
    warmup_factor,
)
from clouds.errors import UserError
from clouds.modeling.backbone import Adapter


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(3))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Block()
        self.head = Block()
        self.queries = nn.Embedding(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied.weight = self.head.linear.weight
        self.group_norm = nn.GroupNorm(1, 2)
        self.batch_norm = nn.BatchNorm2d(2)


def rules(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_each_parameter_gets_the_rule_of_its_module() -> None:
    model = Model()
    groups = parameter_groups(
        model,
        base_lr=1.0,
        weight_decay=0.05,
        weight_decay_norm=0.01,
        weight_decay_embed=0.02,
        backbone_multiplier=0.1,
    )
    assert rules(model, groups) == {
        "backbone.linear.weight": (0.1, 0.05),
        "backbone.linear.bias": (0.1, 0.05),
        "backbone.norm.weight": (0.1, 0.01),
        "backbone.norm.bias": (0.1, 0.01),
        "backbone.relative_position_bias_table": (0.1, 0.0),
        "head.linear.weight": (1.0, 0.05),
        "head.linear.bias": (1.0, 0.05),
        "head.norm.weight": (1.0, 0.01),
        "head.norm.bias": (1.0, 0.01),
        "head.relative_position_bias_table": (1.0, 0.0),
        "queries.weight": (1.0, 0.02),
        "group_norm.weight": (1.0, 0.01),
        "group_norm.bias": (1.0, 0.01),
        "batch_norm.weight": (1.0, 0.01),
        "batch_norm.bias": (1.0, 0.01),
    }
    assert sum(len(group["params"]) for group in groups) == 15, "a tied parameter is listed once"
    assert len(groups) == 7, "one group for each distinct rule"


def test_published_settings_are_the_defaults() -> None:
    cfg, model = get_config(), Model()
    optimizer = build_optimizer(cfg, model)
    lr = cfg.SOLVER.BASE_LR
    assert type(optimizer) is torch.optim.AdamW
    found = rules(model, optimizer.param_groups)
    assert found["head.linear.weight"] == (lr, 0.05)
    assert found["backbone.linear.weight"] == (pytest.approx(0.1 * lr), 0.05)
    assert found["queries.weight"] == found["head.norm.weight"] == (lr, 0.0)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["eps"] == 1e-8


def test_sgd_and_a_model_without_trainable_parameters() -> None:
    cfg = get_config()
    cfg.SOLVER.OPTIMIZER = "SGD"
    optimizer = build_optimizer(cfg, Model())
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["momentum"] == cfg.SOLVER.MOMENTUM
    with pytest.raises(UserError, match="no trainable parameter"):
        build_optimizer(get_config(), Model().requires_grad_(False))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("full_model", [0.6, 0.8, 0.0]),  # the norm of all, 5, becomes 1
        ("norm", [1.0, 1.0, 0.0]),
        ("value", [1.0, 1.0, 0.0]),
    ],
)
def test_gradient_clipping(kind: str, expected: list[float]) -> None:
    cfg = get_config()
    cfg.SOLVER.CLIP_GRADIENTS.merge_from_list(["ENABLED", True, "CLIP_TYPE", kind, "CLIP_VALUE", 1.0])
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    for parameter, gradient in zip(parameters, (3.0, 4.0, 0.0), strict=False):
        parameter.grad = torch.tensor([gradient])
    build_gradient_clipper(cfg)(iter(parameters))  # the fourth has no gradient
    assert [p.grad.item() for p in parameters[:3]] == pytest.approx(expected, abs=1e-5)

    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    parameters[0].grad = torch.tensor([30.0])
    build_gradient_clipper(cfg)(parameters)
    assert parameters[0].grad.item() == 30.0


def test_small_gradients_are_not_scaled_up() -> None:
    cfg = get_config()
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model"
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([0.003, 0.004])
    build_gradient_clipper(cfg)([parameter])
    assert parameter.grad.tolist() == pytest.approx([0.003, 0.004])
    parameter.grad = torch.tensor([3.0, 4.0])
    build_gradient_clipper(cfg)([parameter])
    assert parameter.grad.norm().item() == pytest.approx(0.01, rel=1e-3), "the published bound"


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(0, 1))
def test_warmup_is_a_line_from_its_factor_to_one(iteration: int, iters: int, factor: float) -> None:
    value = warmup_factor(iteration, iters=iters, factor=factor, method="linear")
    expected = 1.0 if iteration >= iters else factor + (1 - factor) * iteration / iters
    assert value == pytest.approx(expected)
    constant = warmup_factor(iteration, iters=iters, factor=factor, method="constant")
    assert constant == (factor if iteration < iters else 1.0)


@given(st.integers(0, 20_000), st.lists(st.integers(1, 20_000), unique=True), st.floats(0.1, 1))
def test_steps_multiply_by_gamma_when_they_are_reached(iteration: int, steps: list[int], gamma: float) -> None:
    reached = sum(step <= iteration for step in steps)
    assert multi_step_factor(iteration, steps=sorted(steps), gamma=gamma) == pytest.approx(gamma**reached)


def test_poly_values() -> None:
    def factor(iteration: int, ending: float = 0.0) -> float:
        return poly_factor(iteration, max_iter=30_000, power=0.9, constant_ending=ending)

    assert [factor(i) for i in (0, 15_000, 29_999, 30_000)] == pytest.approx([1, 0.5**0.9, (1 / 30_000) ** 0.9, 0])
    assert factor(30_001) == 0.0  # a real number, which (-1/30000) ** 0.9 is not
    assert factor(29_999, ending=0.1) == 0.1
    assert factor(0, ending=0.1) == 1.0


def published(**changes: object) -> list[float]:
    cfg = get_config()
    for key, value in changes.items():
        cfg.SOLVER[key] = value
    optimizer = build_optimizer(cfg, Model())
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    return rates


def test_published_schedules() -> None:
    """GTA: constant, since the warm-up factor is 1 and no step is reached; SYNTHIA: poly from the first iteration."""
    constant = published(
        MAX_ITER=40, BASE_LR=1e-5, WARMUP_FACTOR=1.0, WARMUP_ITERS=10, STEPS=(327778, 355092),
        LR_SCHEDULER_NAME="WarmupMultiStepLR",
    )  # fmt: skip
    assert constant == pytest.approx([1e-5] * 40)
    poly = published(MAX_ITER=30, BASE_LR=1e-5, WARMUP_ITERS=0, POLY_LR_POWER=0.9, LR_SCHEDULER_NAME="WarmupPolyLR")
    assert poly == pytest.approx([1e-5 * (1 - i / 30) ** 0.9 for i in range(30)])


def test_warmup_and_schedule_multiply_and_groups_keep_their_ratio() -> None:
    cfg = get_config()
    cfg.SOLVER.merge_from_list(["MAX_ITER", 20, "WARMUP_ITERS", 4, "WARMUP_FACTOR", 0.5, "STEPS", (10,), "GAMMA", 0.1])
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    factor = learning_rate_factor(cfg)
    assert [factor(i) for i in (0, 2, 4, 9, 10)] == pytest.approx([0.5, 0.75, 1, 1, 0.1])
    optimizer = build_optimizer(cfg, Model())
    build_lr_scheduler(cfg, optimizer)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.05 * cfg.SOLVER.BASE_LR, 0.5 * cfg.SOLVER.BASE_LR])


def test_an_unknown_warmup_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^method is 'cubic'"):
        warmup_factor(0, iters=10, factor=0.5, method="cubic")


class Adapted(nn.Module):
    """A backbone with an adapter, as far as the optimizer sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Block().requires_grad_(False)
        self.backbone.adapter = Adapter()
        self.backbone.adapter.factor = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(2, 2)


def adapted_training(*opts: object) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    cfg = get_config()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 8, "SOLVER.WARMUP_ITERS", 0, "SOLVER.BASE_LR", 0.5, *opts])
    built = build_optimizer(cfg, Adapted())
    return built, build_lr_scheduler(cfg, built)


def test_an_adapter_has_a_rate_of_its_own() -> None:
    model = Adapted()
    settings = {"base_lr": 1.0, "weight_decay": 0.05, "weight_decay_norm": 0.0, "weight_decay_embed": 0.0}
    groups = parameter_groups(model, **settings, backbone_multiplier=0.1, adapter_multiplier=0.5)
    assert rules(model, groups)["backbone.adapter.factor"] == (0.5, 0.05)
    assert [group.get("adapter", False) for group in groups] == [True, False]
    # A rate that is equal to the head's does not make them one group.
    assert len(parameter_groups(model, **settings, backbone_multiplier=0.1)) == 2


def test_the_weight_decay_of_an_adapter_is_annealed_and_resumes_to_the_bit() -> None:
    optimizer, scheduler = adapted_training("SOLVER.ADAPTER_DECAY", "cosine")
    decays = []
    for iteration in range(9):
        assert optimizer.param_groups[1]["weight_decay"] == 0.05, "the head keeps its own"
        decays.append(optimizer.param_groups[0]["weight_decay"])
        if iteration == 3:
            stored = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
        optimizer.step()
        scheduler.step()
    assert decays == [pytest.approx(0.05 * (1 + math.cos(math.pi * i / 8)) / 2) for i in range(9)]
    assert decays[0] == 0.05
    assert decays[-1] == 0

    resumed, later = adapted_training("SOLVER.ADAPTER_DECAY", "cosine")
    resumed.load_state_dict(fitted_state(resumed, stored[0], "optimizer"))
    later.load_state_dict(fitted_state(later, stored[1], "scheduler"))
    for decay in decays[3:]:
        assert resumed.param_groups[0]["weight_decay"] == decay
        resumed.step()
        later.step()
    constant, scheduler = adapted_training()
    scheduler.step()
    assert [group["weight_decay"] for group in constant.param_groups] == [0.05, 0.05]
