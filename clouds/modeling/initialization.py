"""Construction of modules whose weights are loaded right afterwards."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM = frozenset((
    *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_),
    *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_),
))  # fmt: skip


class NoRandomInitialization(TorchFunctionMode):
    """Context in which modules are built without random numbers: parameters keep whatever their memory holds.

    Every parameter must be loaded before it is used. Constants, such as zeros, are set as usual.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
