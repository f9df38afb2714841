"""Optimizer, gradient clipping and learning-rate schedules, with the published rules.

A schedule is a pure function of the iteration. It returns the factor on the base rate of every parameter group, so
that a resumed run needs to restore the iteration only.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from clouds.d2 import CfgNode
from clouds.errors import UserError
from clouds.modeling.backbone import Adapter

GradientClipper = Callable[[Iterable[nn.Parameter]], None]

# `_NormBase` is the common base class of batch, sync-batch and instance norm in every dimension.
NORM_TYPES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
POSITION_TABLES = ("relative_position_bias_table", "absolute_pos_embed")


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
    backbone_multiplier: float,
    adapter_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into optimizer groups, one per distinct (lr, weight_decay).

    The module that directly owns a parameter decides: norms and embeddings have their own decay, position tables have
    none, and everything whose module path contains ``backbone`` learns at ``base_lr * backbone_multiplier``, or at
    ``base_lr * adapter_multiplier`` if the backbone has an adapter, which is then all that it trains. Few large groups
    let the optimizer update many tensors in one call. A parameter used twice is listed once, under its first owner.

    Returns:
        The groups; those of an adapter have the entry ``"adapter": True``.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    adapted = any(isinstance(module, Adapter) for module in model.modules())
    multiplier = adapter_multiplier if adapted else backbone_multiplier
    for module_name, module in model.named_modules():
        in_backbone = "backbone" in module_name
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, NORM_TYPES):
                decay = weight_decay_norm
            elif isinstance(module, nn.Embedding):
                decay = weight_decay_embed
            elif any(table in name for table in POSITION_TABLES):
                decay = 0.0
            else:
                decay = weight_decay
            lr = base_lr * multiplier if in_backbone else base_lr
            groups.setdefault((lr, decay, adapted and in_backbone), []).append(parameter)
    return [
        {"params": params, "lr": lr, "weight_decay": decay, **({"adapter": True} if of_adapter else {})}
        for (lr, decay, of_adapter), params in groups.items()
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER.OPTIMIZER`` names, AdamW or SGD, over `parameter_groups`.

    Raises:
        UserError: the model has no trainable parameter.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        adapter_multiplier=solver.ADAPTER_MULTIPLIER,
    )
    if not groups:
        raise UserError("The model has no trainable parameter: check what MODEL.* freezes.")
    optimizers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "ADAMW": torch.optim.AdamW,
        "SGD": partial(torch.optim.SGD, momentum=solver.MOMENTUM),
    }
    # fused: one kernel for all tensors of a group; on a CPU it is four times as fast as a loop over the tensors. It can
    # skip a step on the device.
    optimizer = optimizers[solver.OPTIMIZER](groups, lr=solver.BASE_LR, fused=True)
    if solver.OPTIMIZER == "SGD" and solver.MOMENTUM:
        # A first step that is skipped would leave the momentum uninitialized.
        for parameter in (parameter for group in groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def build_gradient_clipper(cfg: CfgNode) -> GradientClipper:
    """Build the function that clips the gradients of all trainable parameters, called before the optimizer's step.

    ``full_model`` bounds the norm of all gradients together (the published setting), ``norm`` bounds the norm of each
    tensor, ``value`` bounds each entry. The function does nothing if clipping is off or ``CLIP_VALUE`` is 0.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    bound, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE

    def full_model(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_norm_(parameters, bound, norm_type)

    def norm(parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, bound, norm_type)

    def value(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_value_(parameters, bound)

    def nothing(parameters: Iterable[nn.Parameter]) -> None:
        pass

    clippers = {"full_model": full_model, "norm": norm, "value": value}
    return clippers[clip.CLIP_TYPE] if clip.ENABLED and bound > 0 else nothing


def warmup_factor(iteration: int, *, iters: int, factor: float, method: str) -> float:
    """Return the warm-up factor: 1 from iteration `iters` on.

    Args:
        iteration: current iteration, from 0.
        iters: number of warm-up iterations.
        factor: factor at iteration 0.
        method: "constant" keeps `factor` during the warm-up, "linear" rises from `factor` to 1.
    """
    if method not in ("constant", "linear"):
        raise ValueError(f"method is {method!r}; it must be constant or linear")
    if iteration >= iters:
        return 1.0
    if method == "constant":
        return factor
    progress = iteration / iters
    return factor * (1 - progress) + progress


def multi_step_factor(iteration: int, *, steps: Sequence[int], gamma: float) -> float:
    """Return `gamma` to the power of the number of `steps` (iterations, sorted) that have been reached."""
    return gamma ** bisect.bisect_right(steps, iteration)


def poly_factor(iteration: int, *, max_iter: int, power: float, constant_ending: float) -> float:
    """Return ``(1 - iteration / max_iter) ** power``, at least `constant_ending`."""
    return max(max(0.0, 1 - iteration / max_iter) ** power, constant_ending)


def learning_rate_factor(cfg: CfgNode) -> Callable[[int], float]:
    """Return the factor on the base rates as a function of the iteration: warm-up times schedule."""
    solver = cfg.SOLVER
    schedules: dict[str, Callable[[int], float]] = {
        "WarmupMultiStepLR": partial(multi_step_factor, steps=sorted(solver.STEPS), gamma=solver.GAMMA),
        "WarmupPolyLR": partial(
            poly_factor,
            max_iter=solver.MAX_ITER,
            power=solver.POLY_LR_POWER,
            constant_ending=solver.POLY_LR_CONSTANT_ENDING,
        ),
    }
    schedule = schedules[solver.LR_SCHEDULER_NAME]
    warmup = partial(warmup_factor, iters=solver.WARMUP_ITERS, factor=solver.WARMUP_FACTOR, method=solver.WARMUP_METHOD)
    return lambda iteration: warmup(iteration) * schedule(iteration)


def cosine_factor(iteration: int, *, max_iter: int) -> float:
    """Return half a cosine wave from 1 at iteration 0 to 0 from `max_iter` on."""
    return (1 + math.cos(math.pi * min(iteration / max_iter, 1))) / 2


class Schedule(LambdaLR):
    """Scheduler of learning rates, and of the weight decay of adapters. Load its state after that of the optimizer.

    The base values and the schedules are those of this training, not those in the state: a run may continue under
    others, for example with a larger ``MAX_ITER``. Loading the state also sets the values.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        factor: Callable[[int], float],
        adapter_decay: Callable[[int], float] | None = None,
    ) -> None:
        """
        Args:
            optimizer: optimizer of `parameter_groups`.
            factor: factor on the base rates as a function of the iteration.
            adapter_decay: factor on the weight decay of adapters as a function of the iteration; None = constant.
        """
        self._adapter_decay = adapter_decay
        self._base_decays = [group["weight_decay"] for group in optimizer.param_groups]
        super().__init__(optimizer, factor)

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next iteration."""
        super().step(epoch)
        self._set_decays()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, of which `load_state_dict` uses the iteration."""
        own = ("_adapter_decay", "_base_decays")
        return {key: value for key, value in super().state_dict().items() if key not in own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue on this schedule at the iteration in `state_dict`."""
        super().load_state_dict({**state_dict, "base_lrs": self.base_lrs})
        for group, rate, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = rate * factor(self.last_epoch)
        self._set_decays()

    def _set_decays(self) -> None:
        for group, decay in zip(self.optimizer.param_groups, self._base_decays, strict=True):
            if self._adapter_decay and group.get("adapter"):
                group["weight_decay"] = decay * self._adapter_decay(self.last_epoch)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build the scheduler of ``SOLVER.LR_SCHEDULER_NAME``, which is stepped once after every iteration."""
    annealed = cfg.SOLVER.ADAPTER_DECAY == "cosine"
    decay = partial(cosine_factor, max_iter=cfg.SOLVER.MAX_ITER) if annealed else None
    return Schedule(optimizer, learning_rate_factor(cfg), decay)
