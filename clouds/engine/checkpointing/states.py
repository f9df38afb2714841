"""Check of what a checkpoint holds beside the weights, before anything of it is applied.

A checkpoint may be damaged in ways that its checksums do not show, or belong to a training with other settings. The
state of each part of a training is compared with the state that the part has here: same structure, types, shapes,
dtypes, finite numbers. torch does not compare the shapes in the state of an optimizer, and its fused kernels write
beyond the end of a smaller tensor.
"""

import copy
import functools
import reprlib
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clouds.modeling.frozen import BACKBONE
from clouds.modeling.moving_average import MovingAverage
from clouds.self_training.teacher import HEAD, Teacher
from clouds.utils.tensors import unusable
from clouds.utils.values import is_integer, is_number

# Settings of an optimizer that a scheduler may change, and that are thus part of its state.
_SCHEDULED = {"lr", "initial_lr", "momentum", "betas"}


def fitted(loaded: Any, own: Any, name: str, *, needed: Collection[str] | None = None) -> Any:
    """Return a state from a file if it has the structure of an object's own state.

    Args:
        loaded: state from the file.
        own: state of the object that is to take it: dicts, lists, tensors and plain values. An integer or a number that
            is not negative here must not be negative in the file.
        name: name of the state, for messages.
        needed: keys that must be in the file, for a dict whose other keys depend on the version of torch: a key that is
            missing in the file keeps its own value, and one that is missing here is left out. Default: both must have
            the same keys.

    Returns:
        The state in new containers and tensors, which have the memory layout of those in `own` and are on the CPU.

    Raises:
        ValueError: the structures differ. The message names the place.
    """
    if isinstance(own, Tensor):
        return _fitted_tensor(loaded, own, name)
    if isinstance(own, Mapping):
        _require(isinstance(loaded, Mapping), loaded, name, "a dict")
        keys = own.keys() if needed is None else needed
        missing, unknown = keys - loaded.keys(), loaded.keys() - own.keys()
        if missing or (unknown and needed is None):
            what, key = ("lacks", sorted(missing)[0]) if missing else ("has the unknown entry", _any_name(unknown))
            raise ValueError(f"{name} {what} {reprlib.repr(key)}")
        kept = {k for k in own if k not in loaded or (needed is not None and _are_options(loaded[k], own[k]))}
        return {k: loaded.get(k, v) if k in kept else fitted(loaded[k], v, f"{name}.{k}") for k, v in own.items()}
    if isinstance(own, list | tuple):
        _require(isinstance(loaded, list | tuple) and len(loaded) == len(own), loaded, name, f"{len(own)} values")
        return type(own)(fitted(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(loaded, own, strict=True)))
    if own is None or isinstance(own, bool):
        _require(type(loaded) is type(own), loaded, name, "None" if own is None else "a bool")
    elif isinstance(own, int):
        _require(is_integer(loaded, low=0 if own >= 0 else -sys.maxsize), loaded, name, "an integer of at least 0")
    elif isinstance(own, float):
        wanted = "a finite number" + (" of at least 0" if own >= 0 else "")
        _require(is_number(loaded) and not loaded < 0 <= own, loaded, name, wanted)
    else:
        _require(isinstance(loaded, type(own)), loaded, name, f"a {type(own).__name__}")
    return loaded


@functools.singledispatch
def fitted_state(part: Any, state: Any, name: str, model: nn.Module | None = None) -> Any:
    """Return the state of a part of a training from a file if `part` can load it.

    Args:
        part: object with ``state_dict`` and ``load_state_dict``.
        state: its state in the file.
        name: name of the part, for messages.
        model: model that is trained; needed for a `MovingAverage` only, which gets its structure from there when the
            training starts.

    Raises:
        ValueError: `part` cannot load the state.
    """
    return fitted(state, part.state_dict(), name)


@fitted_state.register
def _(part: LRScheduler, state: Any, name: str, model: nn.Module | None = None) -> Any:
    return fitted(state, part.state_dict(), name, needed={"last_epoch"})


@fitted_state.register
def _(part: GradScaler, state: Any, name: str, model: nn.Module | None = None) -> Any:
    found = fitted(state, part.state_dict(), name, needed={"scale", "_growth_tracker"})
    _require(found["scale"] > 0, found["scale"], f"{name}.scale", "above 0")
    return found


@fitted_state.register
def _(part: MovingAverage, state: Any, name: str, model: nn.Module | None = None) -> Any:
    return fitted(state, part.state_of(model) if model else part.state_dict(), name)


@fitted_state.register
def _(part: Teacher, state: Any, name: str, model: nn.Module | None = None) -> Any:
    own = part.state_of(model) if model else part.state_dict()
    if isinstance(state, Mapping) and not any(str(key).startswith(BACKBONE) for key in state):
        # The teacher of an older training is a copy of the head, whatever is trained: the rest starts as the student's.
        own = {key: value for key, value in own.items() if model is None or f"{HEAD}{key}" in model.state_dict()}
    return fitted(state, own, name)


@fitted_state.register
def _(part: Optimizer, state: Any, name: str, model: nn.Module | None = None) -> Any:
    """Take the state of each parameter and `_SCHEDULED` from the file; other settings are those of `part`."""
    own = part.state_dict()["param_groups"]
    _require(isinstance(state, Mapping) and {"state", "param_groups"} <= state.keys(), state, name, "its state")
    groups = state["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own):
        count = len(groups) if isinstance(groups, list) else "no"
        raise ValueError(f"{name} has {count} parameter groups in the file and {len(own)} here")
    settings = []
    for number, (group, mine) in enumerate(zip(groups, own, strict=True)):
        found = fitted(group, mine, f"{name}.param_groups[{number}]", needed={"params"})
        if found["params"] != mine["params"]:
            raise ValueError(f"{name}.param_groups[{number}] has other parameters in the file than here")
        settings.append({**mine, **{key: found[key] for key in _SCHEDULED & found.keys()}})
    tensors = [(parameter, group) for group in part.param_groups for parameter in group["params"]]
    kept = state["state"]
    _require(isinstance(kept, Mapping), kept, f"{name}.state", "a dict")
    unknown = [key for key in kept if not (is_integer(key) and key < len(tensors))]
    if unknown:
        raise ValueError(f"{name}.state has the unknown parameter {reprlib.repr(unknown[0])}")
    expected = {id(group): _state_of_one_tensor(part, group) for group in part.param_groups}
    result = {}
    for key, values in kept.items():
        parameter, group = tensors[key]
        result[key] = fitted(values, expected[id(group)](parameter), f"{name}.state[{key}]")
        for entry in ("step", "exp_avg_sq", "max_exp_avg_sq"):  # a count, and means of squares
            negative = entry in result[key] and result[key][entry].numel() and result[key][entry].min() < 0
            _require(not negative, "negative", f"{name}.state[{key}].{entry}", "at least 0")
    return {"state": result, "param_groups": settings}


def _state_of_one_tensor(optimizer: Optimizer, group: dict[str, Any]) -> Callable[[Tensor], dict[str, Any]]:
    """Return the function from a parameter to a state as the optimizer keeps it: a tiny step shows which it is."""
    tiny = nn.Parameter(torch.zeros(2, 3))
    tiny.grad = torch.zeros(2, 3)
    twin = copy.copy(optimizer)
    twin.state, twin.param_groups = defaultdict(dict), [{**group, "params": [tiny]}]
    twin.step()
    shown = dict(twin.state[tiny])

    def state(parameter: Tensor) -> dict[str, Any]:
        return {
            key: torch.empty_like(parameter, dtype=value.dtype, device="cpu") if value.shape == tiny.shape else value
            for key, value in shown.items()
        }

    return state


def _fitted_tensor(loaded: Any, own: Tensor, name: str) -> Tensor:
    _require(isinstance(loaded, Tensor), loaded, name, "a tensor")
    if reason := unusable(loaded):
        raise ValueError(f"{name} is {reason}")
    if loaded.shape != own.shape or loaded.dtype != own.dtype:
        found, wanted = (f"{tuple(each.shape)} {each.dtype}" for each in (loaded, own))
        raise ValueError(f"{name} is {found} in the file and {wanted} here".replace("torch.", ""))
    if not own.is_floating_point() and own.numel() and loaded.min() < 0 <= own.min():
        raise ValueError(f"{name} has negative numbers")
    return torch.empty_like(own, device="cpu").copy_(loaded)


def _are_options(*values: Any) -> bool:
    """Return whether values are options of torch such as `fused`: True, False, or None where torch decides."""
    return all(value is None or isinstance(value, bool) for value in values)


def _require(holds: bool, value: Any, name: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {reprlib.repr(value)} and should be {wanted}")


def _any_name(keys: Collection[Any]) -> Any:
    return min(keys, key=repr)
