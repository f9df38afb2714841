"""Registers an implementation of multi-scale deformable attention with PyTorch as a differentiable operator.

Such an operator is opaque to `torch.compile`, which keeps it in one graph, and saves nothing but its inputs for the
backward pass.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Letters as in `reference`. shapes: heights and widths of the L levels, flattened, because an operator takes no pairs.
Forward = Callable[[Tensor, Sequence[int], Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Sequence[int], Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Attention = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]


def differentiable_op(name: str, forward: Forward, backward: Backward) -> Attention:
    """Register the operators `clouds::<name>` and `clouds::<name>_backward`.

    Args:
        name: name of the operator.
        forward: maps (value, flat shapes, locations, weights) to the output (B, Q, M * D) in the dtype of `value`.
        backward: maps (gradient of the output, value, flat shapes, locations, weights) to the gradients of value,
            locations and weights, each in the dtype of its tensor.

    Returns:
        Function with the signature of the reference.
    """
    op = torch.library.custom_op(f"clouds::{name}", forward, mutates_args=())
    backward_op = torch.library.custom_op(f"clouds::{name}_backward", backward, mutates_args=())

    @op.register_fake
    def _(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    @backward_op.register_fake
    def _(grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Any:
        return tuple(x.new_empty(x.shape) for x in (value, locations, weights))

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, ctx.shapes, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        by_value, by_locations, by_weights = backward_op(grad, value, ctx.shapes, locations, weights)
        return by_value, None, by_locations, by_weights

    op.register_autograd(gradients, setup_context=save)

    def ms_deform_attn(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        return op(value, [side for shape in shapes for side in shape], locations, weights)

    return ms_deform_attn
