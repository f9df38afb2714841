"""Multi-scale deformable attention on CUDA, in one Triton kernel each for the forward and the backward pass.

A program computes a block of queries of one head and image. A pixel's D channels of a head are contiguous, so that a
corner of a sample is one row to read. Programs of neighboring heads and queries run together and share cache lines.
Sums are in float32; values, and with them the output, may be in half precision, locations and weights are float32.

In the backward pass the samples add to the gradient of the values atomically, in any order. With
`torch.use_deterministic_algorithms` they add whole numbers, multiples of 2^-40 of the largest possible term: such a sum
has no order, so that its bits are those of any other run.

Letters: B images, S source pixels of all levels, M heads, D channels of a head, Q queries, L levels, P points.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.modeling.layers import cached_on_device
from clouds.modeling.pixel_decoder.ops.custom_op import differentiable_op

QUERIES = 16
"""Queries of a program: twelve samples of four corners then fit into the registers."""
STEPS = 2.0**40
"""Steps of the deterministic sum in its largest possible term; 2^23 terms fit into an int64."""


@triton.jit
def _load_level(levels, level):  # type: ignore[no-untyped-def]
    """Return height, width and first pixel of a level."""
    return tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2)


@triton.jit
def _locate(locations, sample, height, width, live):  # type: ignore[no-untyped-def]
    """Return line and column of the upper left corner of each sample, and the distances from them."""
    x = tl.load(locations + 2 * sample, mask=live, other=0.0) * width - 0.5
    y = tl.load(locations + 2 * sample + 1, mask=live, other=0.0) * height - 0.5
    # Far outside is just outside: neither a number beyond int32 nor NaN must become an index.
    inside_x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
    inside_y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
    left = tl.floor(inside_x)
    top = tl.floor(inside_y)
    # With 0 * x, NaN shows in the result.
    return top.to(tl.int32), left.to(tl.int32), inside_y - top + 0.0 * y, inside_x - left + 0.0 * x


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    output,  # (B, Q, M, D)
    value,  # (B, S, M, D)
    locations,  # (B, Q, M, L, P, 2) float32
    weights,  # (B, Q, M, L, P) float32
    levels,  # (L, 3) int32, height, width and first pixel
    S,
    Q,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    head = tl.program_id(0) % M
    image = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) // M * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    live = query < Q
    row = (image * Q + query) * M + head
    first = value + (image * S * M + head) * D + channel
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for level in tl.static_range(L):
        height, width, start = _load_level(levels, level)
        for point in tl.static_range(P):
            sample = (row * L + level) * P + point
            weight = tl.load(weights + sample, mask=live, other=0.0)
            line, column, below, right = _locate(locations, sample, height, width, live)
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    y, x = line + dy, column + dx
                    mask = live & (y >= 0) & (y < height) & (x >= 0) & (x < width)
                    factor = weight * (below if dy else 1 - below) * (right if dx else 1 - right)
                    pixel = first + (start + y * width + x)[:, None] * (M * D)
                    corner = tl.load(pixel, mask=mask[:, None] & (channel < D), other=0.0)
                    total += factor[:, None] * corner.to(tl.float32)
    target = output + row[:, None] * D + channel
    tl.store(target, total.to(output.dtype.element_ty), mask=live[:, None] & (channel < D))


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    by_value,  # (B, S, M, D) zeros, float32; int64 if DETERMINISTIC
    by_locations,  # (B, Q, M, L, P, 2) float32
    by_weights,  # (B, Q, M, L, P) float32
    grad,  # (B, Q, M, D), gradient of the output
    value,
    locations,
    weights,
    levels,
    scale,  # () float32, steps of a unit; read if DETERMINISTIC
    S,
    Q,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    DETERMINISTIC: tl.constexpr,
):
    head = tl.program_id(0) % M
    image = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) // M * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)[None, :]
    live = query < Q
    row = (image * Q + query) * M + head
    first = (image * S * M + head) * D + channel
    wanted = tl.load(grad + row[:, None] * D + channel, mask=live[:, None] & (channel < D), other=0.0).to(tl.float32)
    for level in tl.static_range(L):
        height, width, start = _load_level(levels, level)
        for point in tl.static_range(P):
            sample = (row * L + level) * P + point
            weight = tl.load(weights + sample, mask=live, other=0.0)
            line, column, below, right = _locate(locations, sample, height, width, live)
            by_weight = tl.zeros((BLOCK_Q,), tl.float32)
            by_x = tl.zeros((BLOCK_Q,), tl.float32)
            by_y = tl.zeros((BLOCK_Q,), tl.float32)
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    y, x = line + dy, column + dx
                    mask = (live & (y >= 0) & (y < height) & (x >= 0) & (x < width))[:, None] & (channel < D)
                    share_y = below if dy else 1 - below
                    share_x = right if dx else 1 - right
                    pixel = first + (start + y * width + x)[:, None] * (M * D)
                    corner = tl.load(value + pixel, mask=mask, other=0.0).to(tl.float32)
                    product = tl.sum(wanted * corner, axis=1)
                    by_weight += share_y * share_x * product
                    by_x += (share_y if dx else -share_y) * product
                    by_y += (share_x if dy else -share_x) * product
                    term = (weight * share_y * share_x)[:, None] * wanted
                    if DETERMINISTIC:
                        tl.atomic_add(by_value + pixel, (term * tl.load(scale)).to(tl.int64), mask=mask, sem="relaxed")
                    else:
                        tl.atomic_add(by_value + pixel, term, mask=mask, sem="relaxed")
            tl.store(by_weights + sample, by_weight, mask=live)
            tl.store(by_locations + 2 * sample, by_x * weight * width, mask=live)
            tl.store(by_locations + 2 * sample + 1, by_y * weight * height, mask=live)


@cached_on_device(64)  # small tensors: sizes of an evaluation come back, and a copy from the host waits for the device
def _levels(shapes: tuple[int, ...], device: torch.device) -> Tensor:
    rows, start = [], 0
    for height, width in zip(shapes[::2], shapes[1::2], strict=True):
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _launch(kernel: Any, tensors: Sequence[Tensor], value: Tensor, locations: Tensor, **options: bool) -> None:
    (batch, pixels, heads, dim), (_, queries, _, levels, points, _) = value.shape, locations.shape
    sizes = {"M": heads, "D": dim, "L": levels, "P": points, "BLOCK_D": triton.next_power_of_2(dim)}
    with torch.cuda.device_of(value):  # Triton launches on the current device
        grid = (triton.cdiv(queries, QUERIES) * heads, batch)
        kernel[grid](*tensors, pixels, queries, **sizes, BLOCK_Q=QUERIES, **options)


def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the output (B, Q, M * D); the arguments are those of the operator, see `differentiable_op`."""
    value, locations, weights = value.contiguous(), locations.float().contiguous(), weights.float().contiguous()
    output = value.new_empty(*locations.shape[:3], value.shape[3])
    _launch(_forward, (output, value, locations, weights, _levels(tuple(shapes), value.device)), value, locations)
    return output.flatten(2)


def backward(
    grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `value`, `locations` and `weights` from that of the output, `grad` (B, Q, M * D)."""
    dtypes = value.dtype, locations.dtype, weights.dtype
    value, locations, weights = value.contiguous(), locations.float().contiguous(), weights.float().contiguous()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # The floor keeps the scale finite where the gradient is 0. NaN and infinity make all sums NaN or infinite.
    scale = STEPS / (grad.abs().amax().float() * weights.abs().amax()).clamp(min=1e-20)
    by_value = torch.zeros_like(value, dtype=torch.int64 if deterministic else torch.float32)
    by_locations, by_weights = torch.empty_like(locations), torch.empty_like(weights)
    levels = _levels(tuple(shapes), value.device)
    tensors = (by_value, by_locations, by_weights, grad.contiguous(), value, locations, weights, levels, scale)
    _launch(_backward, tensors, value, locations, DETERMINISTIC=deterministic)
    if deterministic:
        by_value = by_value.double() / scale.double()
    gradients = zip((by_value, by_locations, by_weights), dtypes, strict=True)
    by_value, by_locations, by_weights = (gradient.to(dtype) for gradient, dtype in gradients)
    return by_value, by_locations, by_weights


ms_deform_attn = differentiable_op("ms_deform_attn_triton", forward, backward)
