"""`CfgNode` and `@configurable`, without torch."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _FvcoreCfgNode


class CfgNode(_FvcoreCfgNode):
    """Tree of config keys: attribute access, `_BASE_` in files, type-checked merges, `freeze`, `clone`, `dump`."""


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
    """Return a copy of detectron2's defaults, restricted to the config keys that the bundled code reads."""
    return _DEFAULTS.clone()


def configurable(init_func: Callable[..., None]) -> Callable[..., None]:
    """Decorate `__init__` so that a class can be built from explicit arguments or from a `CfgNode`.

    The classmethod `from_config(cls, cfg, ...)` turns the config into keyword arguments. Arguments that are passed
    beside the config go to `from_config` if it has a parameter of that name; otherwise they go to `__init__` and
    override the values from the config.

        class Head(nn.Module):
            @configurable
            def __init__(self, *, channels: int): ...

            @classmethod
            def from_config(cls, cfg): return {"channels": cfg.MODEL.CHANNELS}

        Head(channels=8); Head(cfg); Head(cfg, channels=8)
    """
    assert inspect.isfunction(init_func) and init_func.__name__ == "__init__", "@configurable goes on __init__"

    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(f"{type(self).__name__}: a class with @configurable needs a classmethod 'from_config'")
        if not inspect.ismethod(from_config):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod")
        if isinstance(args[0] if args else kwargs.get("cfg"), _FvcoreCfgNode):
            init_func(self, **_explicit_arguments(from_config, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


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
