"""Optimizer, gradient clipping and learning-rate schedules, with the published rules.

A schedule is a pure function of the iteration that answers the factor on every group's own base rate, so that its
values can be tested against the closed formula and nothing but the iteration has to be restored on resume.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from clouds.d2 import CfgNode
from clouds.errors import UserError

GradientClipper = Callable[[Iterable[nn.Parameter]], None]

# `_NormBase` is the common base of batch, sync-batch and instance norm in every dimension.
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
) -> list[dict[str, Any]]:
    """Trainable parameters as optimizer groups, one per distinct (lr, weight_decay).

    A parameter's rule comes from the module that directly owns it: norms and embeddings have their own decay,
    position tables none, and everything whose module path contains ``backbone`` learns at
    ``base_lr * backbone_multiplier``. Equal rules share a group, which is what lets the optimizer update many tensors
    in one call; a parameter used twice is listed once, under its first owner.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
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
            lr = base_lr * backbone_multiplier if "backbone" in module_name else base_lr
            groups.setdefault((lr, decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD (``SOLVER.OPTIMIZER``) over `parameter_groups`; `UserError` if nothing is trainable."""
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
    )
    if not groups:
        raise UserError("The model has no trainable parameter: check what MODEL.* freezes.")
    # fused: one kernel for all tensors of a group, on a CPU four times as fast as a loop over them.
    if solver.OPTIMIZER == "ADAMW":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, fused=True)
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, fused=True)
    raise UserError(f"SOLVER.OPTIMIZER is '{solver.OPTIMIZER}': use ADAMW or SGD.")


def build_gradient_clipper(cfg: CfgNode) -> GradientClipper:
    """The function called on all trainable parameters between ``backward`` and ``step``.

    ``full_model`` bounds the norm of all gradients together (the published setting), ``norm`` that of each tensor,
    ``value`` each entry. It does nothing when clipping is off or ``CLIP_VALUE`` is not positive.
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
    if clip.CLIP_TYPE not in clippers:
        raise UserError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clip.CLIP_TYPE}': use {', '.join(clippers)}.")
    return clippers[clip.CLIP_TYPE] if clip.ENABLED and bound > 0 else nothing


def warmup_factor(iteration: int, *, iters: int, factor: float, method: str) -> float:
    """1 from iteration ``iters`` on; before, ``factor`` (``constant``) or a line from ``factor`` to 1 (``linear``)."""
    if iteration >= iters:
        return 1.0
    if method == "constant":
        return factor
    progress = iteration / iters
    return factor * (1 - progress) + progress


def multi_step_factor(iteration: int, *, steps: Sequence[int], gamma: float) -> float:
    """``gamma`` to the power of the number of ``steps`` (sorted) that have been reached."""
    return gamma ** bisect.bisect_right(steps, iteration)


def poly_factor(iteration: int, *, max_iter: int, power: float, constant_ending: float) -> float:
    """``(1 - iteration / max_iter) ** power``, never below ``constant_ending``."""
    return max(max(0.0, 1 - iteration / max_iter) ** power, constant_ending)


def learning_rate_factor(cfg: CfgNode) -> Callable[[int], float]:
    """The factor on every base rate at an iteration, from ``SOLVER.LR_SCHEDULER_NAME`` and the warm-up keys."""
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
    if solver.LR_SCHEDULER_NAME not in schedules:
        raise UserError(f"SOLVER.LR_SCHEDULER_NAME is '{solver.LR_SCHEDULER_NAME}': use {' or '.join(schedules)}.")
    if solver.WARMUP_METHOD not in ("linear", "constant"):
        raise UserError(f"SOLVER.WARMUP_METHOD is '{solver.WARMUP_METHOD}': use linear or constant.")
    schedule = schedules[solver.LR_SCHEDULER_NAME]
    warmup = partial(warmup_factor, iters=solver.WARMUP_ITERS, factor=solver.WARMUP_FACTOR, method=solver.WARMUP_METHOD)
    return lambda iteration: warmup(iteration) * schedule(iteration)


class Schedule(LambdaLR):
    """Also sets the rates when it is loaded: those that the optimizer brings are of the schedule it was saved under,
    and a run may be continued under another one, with a larger ``MAX_ITER``. To be loaded after the optimizer."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the iteration in ``state_dict``, on this schedule."""
        super().load_state_dict(state_dict)
        for group, rate, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = rate * factor(self.last_epoch)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Scheduler to be stepped once after every iteration."""
    return Schedule(optimizer, learning_rate_factor(cfg))
