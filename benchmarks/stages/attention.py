"""Multi-scale deformable attention: all implementations on the inputs of a training and of a test step."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from clouds.modeling.pixel_decoder.msdeformattn import pixel_centers
from clouds.modeling.pixel_decoder.ops.reference import ms_deform_attn
from stages.bench import Bench, relative_error
from stages.inputs import Inputs

REFERENCE = "reference"
# Each takes (value, shapes, locations, weights) as the reference does. To measure a new kernel, add an entry.
IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {REFERENCE: ms_deform_attn}

HEADS, CHANNELS, POINTS = 8, 32, 4


def measure_attention(bench: Bench, inputs: Inputs) -> None:
    """Measure forward, and forward with backward, of every implementation; the peer is the reference."""
    sizes = inputs.sizes
    for case, batch, (height, width) in (("train", sizes.batch, (sizes.side, sizes.side)), ("test", 1, sizes.test)):
        shapes = [(height // stride, width // stride) for stride in (32, 16, 8)]
        (value, locations, weights), gradient = attention_inputs(batch, shapes, bench.device)
        exact = ms_deform_attn(value, shapes, locations, weights).detach()
        for name, implementation in IMPLEMENTATIONS.items():
            forward = partial(implementation, value, shapes, locations, weights)
            both = partial(backward, forward, (value, locations, weights), gradient)
            names = f"attention/{case}/{name}", f"attention/{case}/{REFERENCE}"
            error = relative_error(forward(), exact)
            with torch.no_grad():
                bench.time(names[0], forward, peer=names[1], images=batch, seconds=0.6, error=error)
            bench.time(f"{names[0]}, backward", both, peer=f"{names[1]}, backward", images=batch, seconds=0.8)


def backward(forward: Callable[[], Tensor], leaves: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of the leaves for a gradient of the output."""
    return torch.autograd.grad(forward(), leaves, gradient)


def attention_inputs(batch: int, shapes: list[tuple[int, int]], device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Return value, locations and weights that require gradients, and a gradient of the output.

    The samples scatter by two pixels around the pixel of their query, as those of a trained network.
    """
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device=device, generator=generator)

    length, levels = sum(height * width for height, width in shapes), len(shapes)
    value = random(batch, length, HEADS, CHANNELS)
    centres = torch.cat([pixel_centers(height, width, value.device) for height, width in shapes])
    extent = value.new_tensor([(width, height) for height, width in shapes])
    offsets = 2 * random(batch, length, HEADS, levels, POINTS, 2) / extent[:, None]
    weights = random(batch, length, HEADS, levels * POINTS).softmax(-1).unflatten(-1, (levels, POINTS))
    leaves = [value, centres[:, None, None, None] + offsets, weights]
    return [leaf.detach().requires_grad_() for leaf in leaves], random(batch, length, HEADS * CHANNELS)
