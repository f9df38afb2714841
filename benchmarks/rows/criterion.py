"""Operations that the criterion launches in a step, and how often the host waits for their results.

Both are counted on a CPU: on a GPU, each operation is a launch of one or several kernels. The host waits where it asks
for values (`item`, `tolist`, a condition, `nonzero`), copies a tensor to the CPU, or puts values of its own on the
device. Indices on the host, with which the peers index tensors on the device, are not counted, so that the peers wait
more often than the table says.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from clouds.modeling.structures import Prediction
from rows import NETWORKS, OURS, Sizes
from rows.networks import OurNetwork, batch_of, network, targets_of

OUTPUTS, QUERIES, CLASSES = 10, 100, 19
_WAITS = frozenset({"item", "tolist", "cpu", "__bool__", "__int__", "__float__", "nonzero"})


class Launches(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "aten" and not func.is_view
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Counts calls after which the host of a GPU waits."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        self.count += name in _WAITS
        self.count += name == "to" and len(args) > 1 and args[1] == "cpu"
        self.count += name in ("as_tensor", "tensor") and "device" in kwargs
        return func(*args, **kwargs)


def build(side: str, sizes: Sizes) -> Callable[[], Any]:
    """Return a forward and backward pass of the criterion for random outputs, which counts and returns losses."""
    net = network(side, miniature=sizes["miniature"])
    targets = targets_of(batch_of(sizes))
    torch.manual_seed(0)
    shape = sizes["batch"], QUERIES, sizes["side"] // 4, sizes["side"] // 4
    predictions = [
        Prediction(torch.randn(*shape[:2], CLASSES + 1, requires_grad=True), torch.randn(shape, requires_grad=True))
        for _ in range(OUTPUTS)
    ]

    def count() -> dict[str, Any]:
        torch.manual_seed(0)
        compute = net.losses
        if isinstance(net, OurNetwork):
            # Drawn before, since in training we draw once per image; the source counts one operation per image.
            points = net.peers_points([len(target.labels) for target in targets], layers=OUTPUTS)
            compute = partial(net.losses, points=points)
        with Waits() as waits, Launches() as launches:
            losses = compute(predictions, targets)
            losses.sum().backward()
        return {"launches": launches.count, "waits": waits.count, "losses": losses}

    return count


SIDES = {side: partial(build, side) for side in NETWORKS}


def check(results: Mapping[str, Any]) -> str:
    """Compare the sums of the losses."""
    sums = {side: float(result["losses"].sum()) for side, result in results.items()}
    worst = max(abs(each / sums[OURS] - 1) for each in sums.values())
    assert worst < 0.01, f"the losses differ by {worst:.1%}"
    return f"the sums of the losses agree within {worst:.0e} (limit 1e-2)"
