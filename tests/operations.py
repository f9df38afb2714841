"""Observers of the operations that torch executes."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """Records the sizes of the largest tensors of operations, in bytes.

    Attributes:
        made: largest tensor that an operation makes; views and the inputs do not count.
        returned: largest tensor that an operation returns, views and inputs included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.returned = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {each.untyped_storage().data_ptr() for each in args if isinstance(each, Tensor)}
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.returned = max(self.returned, each.numel() * each.element_size())
                if each.untyped_storage().data_ptr() not in known:
                    self.made = max(self.made, each.untyped_storage().nbytes())
        return result
