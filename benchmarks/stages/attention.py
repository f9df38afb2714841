"""Multi-scale deformable attention: all implementations on the inputs of a training and of a test step."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from clouds.modeling.pixel_decoder.msdeformattn import pixel_centers
from clouds.modeling.pixel_decoder.ops import Attention, check_implementation, find_implementation
from stages.bench import Bench, relative_error
from stages.inputs import Inputs

REFERENCE, TRITON = "grid_sample", "triton"
OPERATION = "MultiScaleDeformableAttention"  # module of the published compiled operation, where it is installed
POINTS = 4


def measure_attention(bench: Bench, inputs: Inputs) -> None:
    """Measure forward, and forward with backward, of every implementation; the peer is the reference.

    The published operation has no gradient of its own here: its backward pass is timed by itself.
    """
    sizes, heads, channels = inputs.sizes, *((1, 16) if bench.smoke else (8, 32))
    implementations = available(bench.device)
    for case, batch, (height, width) in (("train", sizes.batch, (sizes.side, sizes.side)), ("test", 1, sizes.test)):
        shapes = [(height // stride, width // stride) for stride in (32, 16, 8)]
        if bench.smoke:  # Triton's interpreter takes a second for a hundred samples
            shapes, batch = [(1, 1), (2, 2)], 1
        leaves, gradient = attention_inputs(batch, shapes, bench.device, heads, channels)
        exact = implementations[REFERENCE](leaves[0], shapes, *leaves[1:]).detach()
        for name, implementation in implementations.items():
            measure_one(bench, case, name, implementation, leaves, shapes, gradient, exact)
        if TRITON in implementations:
            fused = implementations[TRITON]
            half = [leaves[0].detach().bfloat16().requires_grad_(), *leaves[1:]]
            measure_one(bench, case, f"{TRITON}, bf16 values", fused, half, shapes, gradient.bfloat16(), exact)
            with deterministic():
                measure_one(bench, case, f"{TRITON}, deterministic", fused, leaves, shapes, gradient, exact)
            if bench.device.type == "cuda":
                measure_blocks(bench, case, fused, leaves, shapes, gradient)
        if find_spec(OPERATION) and bench.device.type == "cuda":
            measure_published(bench, case, leaves, shapes, gradient, exact)


def available(device: torch.device) -> dict[str, Attention]:
    """Return the implementations that can run on a device, the reference first."""
    found = {}
    for name in (REFERENCE, "embedding_bag", TRITON):
        with contextlib.suppress(ValueError):
            check_implementation(name, device)
            found[name] = find_implementation(name, device.type)
    return found


def measure_one(
    bench: Bench,
    case: str,
    name: str,
    implementation: Attention,
    leaves: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    gradient: Tensor,
    exact: Tensor,
) -> None:
    """Measure one implementation for inputs (value, locations, weights) that require gradients."""
    forward = partial(implementation, leaves[0], shapes, *leaves[1:])
    both, images = partial(backward, forward, leaves, gradient), len(gradient)
    names = f"attention/{case}/{name}", f"attention/{case}/{REFERENCE}"
    error = relative_error(forward(), exact)
    with torch.no_grad():
        bench.time(names[0], forward, peer=names[1], images=images, seconds=0.6, error=error)
    bench.time(f"{names[0]}, backward", both, peer=f"{names[1]}, backward", images=images, seconds=0.8)


def measure_blocks(
    bench: Bench,
    case: str,
    fused: Attention,
    leaves: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    gradient: Tensor,
) -> None:
    """Measure the kernels with other numbers of queries per program; the peer is the number that they use."""
    kernel = import_module("clouds.modeling.pixel_decoder.ops.kernel")
    chosen, name = kernel.QUERIES, f"attention/{case}/{TRITON}"
    forward = partial(fused, leaves[0], shapes, *leaves[1:])
    try:
        for queries in (8, 32, 64):
            kernel.QUERIES = queries
            both = partial(backward, forward, leaves, gradient)
            bench.time(f"{name}, {queries} queries, backward", both, peer=f"{name}, backward", seconds=0.3)
    finally:
        kernel.QUERIES = chosen


def measure_published(
    bench: Bench,
    case: str,
    leaves: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    gradient: Tensor,
    exact: Tensor,
) -> None:
    """Measure the published compiled operation; of the fused kernel it is the peer that counts."""
    operation, name = import_module(OPERATION), f"attention/{case}/published operation"
    value, locations, weights = (leaf.detach().contiguous() for leaf in leaves)
    extents = torch.tensor(shapes, device=bench.device)
    first = torch.cat([extents.new_zeros(1), extents.prod(1).cumsum(0)[:-1]])
    step = 128  # images that it takes at once, as published
    forward = partial(operation.ms_deform_attn_forward, value, extents, first, locations, weights, step)
    alone = partial(operation.ms_deform_attn_backward, value, extents, first, locations, weights, gradient, step)

    def both() -> None:
        forward()
        alone()

    images, error = len(gradient), relative_error(forward(), exact)
    bench.time(name, forward, peer=f"attention/{case}/{TRITON}", images=images, seconds=0.6, error=error)
    bench.time(f"{name}, backward", both, peer=f"attention/{case}/{TRITON}, backward", images=images, seconds=0.8)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic algorithms inside the context."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def backward(forward: Callable[[], Tensor], leaves: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of the leaves for a gradient of the output."""
    return torch.autograd.grad(forward(), leaves, gradient)


def attention_inputs(
    batch: int, shapes: list[tuple[int, int]], device: torch.device, heads: int, channels: int
) -> tuple[list[Tensor], Tensor]:
    """Return value, locations and weights that require gradients, and a gradient of the output.

    The samples scatter by two pixels around the pixel of their query, as those of a trained network.
    """
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device=device, generator=generator)

    length, levels = sum(height * width for height, width in shapes), len(shapes)
    value = random(batch, length, heads, channels)
    centres = torch.cat([pixel_centers(height, width, value.device) for height, width in shapes])
    extent = value.new_tensor([(width, height) for height, width in shapes])
    offsets = 2 * random(batch, length, heads, levels, POINTS, 2) / extent[:, None]
    weights = random(batch, length, heads, levels * POINTS).softmax(-1).unflatten(-1, (levels, POINTS))
    leaves = [value, centres[:, None, None, None] + offsets, weights]
    return [leaf.detach().requires_grad_() for leaf in leaves], random(batch, length, heads * channels)
