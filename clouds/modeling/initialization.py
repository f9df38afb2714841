"""Construction of modules whose weights are loaded right afterwards, and of those without weights."""

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


def open_residual_branches(model: nn.Module) -> None:
    """Set the layer scales of a model of timm without weights to 1.

    timm initializes them with 1e-6, for trainings of hundreds of thousands of iterations; in a short training they
    would hardly grow, and the blocks would stay without effect.
    """
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("gamma", "gamma_1", "gamma_2"):
            nn.init.ones_(parameter)
