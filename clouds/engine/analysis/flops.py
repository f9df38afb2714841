"""Counting of floating-point operations, FLOPs: a multiplication and an addition are two.

`torch.utils.flop_counter` counts matrix products, convolutions and scaled dot product attention, forward and backward.
Here, two operations are added, for which it has no formula, bilinear sampling and multi-scale deformable attention, and
the gradients of grouped convolutions are corrected.
What is computed element by element, such as norms, activations, softmax and resizing, does not count.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, shape_wrapper

from clouds.modeling.pixel_decoder.ops import embedding_bag  # noqa: F401  (registers its operator)

T = TypeVar("T")
Shape = Sequence[int]

_BILINEAR = 8  # a sample is a weighted sum of four values
_DEFORMABLE = _BILINEAR + 2  # and it enters the sum over levels and points with its weight


def sampling_flops(images: Shape, grid: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Return the FLOPs of `grid_sample` with bilinear interpolation, (B, C, h, w)."""
    return _BILINEAR * math.prod(out_shape)


def sampling_backward_flops(grad: Shape, *_: Any, **__: Any) -> int:
    """Return the FLOPs of its gradients by images and grid."""
    return 2 * _BILINEAR * math.prod(grad)


def deformable_flops(value: Shape, _: Sequence[int], locations: Shape, *__: Any, **___: Any) -> int:
    """Return the FLOPs of multi-scale deformable attention: its samples, and their weighted sum.

    Args:
        value: (B, S, M, D).
        locations: (B, Q, M, L, P, 2).
    """
    return _DEFORMABLE * math.prod(locations[:5]) * value[3]


def deformable_backward_flops(
    grad: Shape, value: Shape, shapes: Sequence[int], locations: Shape, *_: Any, **__: Any
) -> int:
    """Return the FLOPs of its gradients by values, locations and weights: twice those of the forward pass."""
    return 2 * deformable_flops(value, shapes, locations)


def convolution_backward_flops(
    grad: Shape, images: Shape, kernel: Shape, *options: Any, out_shape: Any = None, **_: Any
) -> int:
    """Return the FLOPs of a convolution's gradients by images and kernel: each those of the forward pass.

    torch's own formula does not divide by the number of groups.
    """
    _dilation, transposed, _padding, _groups, wanted = options[-5:]
    return conv_flop_count([*images], [*kernel], [*grad], transposed=transposed) * sum(wanted[:2])


class FlopCounter(TorchDispatchMode):
    """Counts the FLOPs of what is computed in its context.

    Unlike `FlopCounterMode`, it does not tell modules apart, which takes most of the time on the device "meta".

    Attributes:
        total: FLOPs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        aten, clouds = torch.ops.aten, torch.ops.clouds
        own = {
            aten.grid_sampler_2d: sampling_flops,
            aten.grid_sampler_2d_backward: sampling_backward_flops,
            aten.convolution_backward: convolution_backward_flops,
            clouds.ms_deform_attn_embedding_bag: deformable_flops,
            clouds.ms_deform_attn_embedding_bag_backward: deformable_backward_flops,
        }
        self._formulas = {**flop_registry, **{op: shape_wrapper(formula) for op, formula in own.items()}}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self._formulas.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def count_flops(call: Callable[[], T]) -> tuple[int, T]:
    """Return the FLOPs of a call, and its result.

    Tensors on the device "meta" are counted without being computed.
    """
    with FlopCounter() as counter:
        result = call()
    return counter.total, result
