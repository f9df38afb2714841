"""`CfgNode` and `@configurable`, without torch."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode as _FvcoreCfgNode


class CfgNode(_FvcoreCfgNode):
    """A tree of settings: attribute access, `_BASE_` in files, type-checked merges, `freeze`, `clone`, `dump`.

    fvcore's own class; only a missing file has a better message. YAML tags that run code are refused unless
    `allow_unsafe=True` is passed (detectron2 allows them by default).
    """

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file and the chain of its `_BASE_` files, the nearest winning."""
        assert Path(cfg_filename).is_file(), f"Config file {cfg_filename!r} does not exist"
        super().merge_from_file(cfg_filename, allow_unsafe=allow_unsafe)


_DEFAULTS = CfgNode(
    {
        "VERSION": 2,
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "DEVICE": "cuda",
            "PIXEL_MEAN": [103.530, 116.280, 123.675],
            "BACKBONE": {"NAME": "build_resnet_backbone"},
            "SEM_SEG_HEAD": {"NAME": "SemSegFPNHead"},
        },
    }
)


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults: those of detectron2's keys that the bundled code itself reads, with its values."""
    return _DEFAULTS.clone()


def configurable(init_func: Any = None, *, from_config: Callable[..., dict[str, Any]] | None = None) -> Any:
    """Let a class or a function be called either with explicit arguments or with a `CfgNode`.

    On `__init__` the class's classmethod `from_config(cls, cfg, ...)` turns the config into keyword arguments; on a
    function the same is done by `from_config=`. Arguments given beside the config go to `from_config` if it takes them,
    else straight to the call, where they override what the config says.

        class Head(nn.Module):
            @configurable
            def __init__(self, *, channels: int): ...

            @classmethod
            def from_config(cls, cfg): return {"channels": cfg.MODEL.CHANNELS}

        Head(channels=8); Head(cfg); Head(cfg, channels=8)
    """
    if init_func is None:
        if from_config is None:  # written with empty parentheses
            return configurable
        return functools.partial(_configurable_function, from_config)
    assert inspect.isfunction(init_func) and init_func.__name__ == "__init__" and from_config is None, (
        "@configurable goes on __init__, or takes from_config= to go on a function"
    )

    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        build = getattr(type(self), "from_config", None)
        if build is None:
            raise AttributeError(f"{type(self).__name__}: a class with @configurable needs a classmethod 'from_config'")
        if not inspect.ismethod(build):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod")
        if _has_config(args, kwargs):
            init_func(self, **_explicit_arguments(build, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _configurable_function(from_config: Callable[..., dict[str, Any]], function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _has_config(args, kwargs):
            return function(**_explicit_arguments(from_config, args, kwargs))
        return function(*args, **kwargs)

    wrapped.from_config = from_config  # type: ignore[attr-defined]
    return wrapped


def _has_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), _FvcoreCfgNode)


def _explicit_arguments(
    from_config: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    taken = {name: value for name, value in kwargs.items() if name in parameters}
    overrides = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **taken), **overrides}
