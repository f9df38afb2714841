"""Label maps on CUDA, in one Triton kernel: neither the upsampled masks nor the scores of all classes are ever stored.

A program computes a row segment of the result. It adds up the queries in the order of their highest class probability,
16 at a time. Since a mask's probability is at most 1, the remaining class probabilities bound what a score can still
gain; as soon as no other class can reach the best one at any pixel of the segment, the program stops. Nothing is
approximated, and the host waits for nothing.

Letters: Q queries, K classes, h x w mask logits, H x W canvas, height x width result.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.modeling.inference.sampling import bilinear_samples
from clouds.modeling.inference.scores import TIE, class_probabilities, upsampling
from clouds.utils.sizes import Size

QUERIES = 16
"""Queries that are added at once."""
SEGMENT = 128
"""Pixels of a program that computes few classes."""
SCORES = 4096
"""Scores of a program, classes times pixels: they lie in registers, 32 in each thread."""


@triton.jit
def _probabilities(  # type: ignore[no-untyped-def]
    masks, y, x, h, w, factor_y: tl.constexpr, factor_x: tl.constexpr
):
    """Return the mask probabilities (queries, pixels) at canvas row `y` and columns `x`, upsampled bilinearly.

    `masks` (queries, 1) points to the first logit of each query.
    """
    source_y = tl.maximum((y + 0.5) / factor_y - 0.5, 0.0)
    source_x = tl.maximum((x.to(tl.float32) + 0.5) / factor_x - 0.5, 0.0)
    top = source_y.to(tl.int32)
    left = source_x.to(tl.int32)
    bottom = tl.minimum(top + 1, h - 1)
    right = tl.minimum(left + 1, w - 1)[None, :]
    down = source_y - top
    across = (source_x - left)[None, :]
    left = left[None, :]
    upper = tl.load(masks + top * w + left) * (1 - across) + tl.load(masks + top * w + right) * across
    lower = tl.load(masks + bottom * w + left) * (1 - across) + tl.load(masks + bottom * w + right) * across
    return tl.sigmoid(upper * (1 - down) + lower * down)


@triton.jit
def _label(  # type: ignore[no-untyped-def]
    labels,  # (height, width) uint8
    logits,  # (Q, h, w) float32
    order,  # (steps * QUERIES,) int64, queries by descending highest class probability
    weights,  # (BLOCK_K, steps * QUERIES) float32, class probabilities in this order
    rest,  # (steps + 1, BLOCK_K) float32, sum of the class probabilities from each step on
    y_lower,  # (height,) int64; this and the next five are read if RESIZED
    y_upper,
    y_weight,  # (height,) float32
    x_lower,  # (width,) int64
    x_upper,
    x_weight,  # (width,) float32
    threshold,
    h,
    w,
    width,
    steps,
    factor_y: tl.constexpr,
    factor_x: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_X: tl.constexpr,
    RESIZED: tl.constexpr,
    DROPS: tl.constexpr,
    NEAR: tl.constexpr,
):
    y = tl.program_id(1)
    x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    inside = x < width
    at = tl.minimum(x, width - 1)
    k = tl.arange(0, BLOCK_K)[:, None]
    q = tl.arange(0, BLOCK_Q)
    if RESIZED:
        y0, y1, down = tl.load(y_lower + y), tl.load(y_upper + y), tl.load(y_weight + y)
        x0, x1, across = tl.load(x_lower + at), tl.load(x_upper + at), tl.load(x_weight + at)[None, :]
    scores = tl.zeros((BLOCK_K, BLOCK_X), tl.float32)
    label = tl.zeros((BLOCK_X,), tl.int32)
    step = 0
    unsettled = 1
    while (step < steps) & (unsettled > 0):
        masks = logits + tl.load(order + step * BLOCK_Q + q)[:, None] * (h * w)
        if RESIZED:
            upper = _probabilities(masks, y0, x0, h, w, factor_y, factor_x) * (1 - across)
            upper += _probabilities(masks, y0, x1, h, w, factor_y, factor_x) * across
            lower = _probabilities(masks, y1, x0, h, w, factor_y, factor_x) * (1 - across)
            lower += _probabilities(masks, y1, x1, h, w, factor_y, factor_x) * across
            probabilities = upper * (1 - down) + lower * down
        else:
            probabilities = _probabilities(masks, y, at, h, w, factor_y, factor_x)
        part = tl.load(weights + k * (steps * BLOCK_Q) + step * BLOCK_Q + q[None, :])
        scores += tl.dot(part, probabilities, input_precision="ieee")
        step += 1
        low = tl.where(k < K, scores, -1.0)
        high = tl.where(k < K, scores + tl.load(rest + step * BLOCK_K + k), -1.0)
        best = tl.max(low, axis=0)
        label = tl.argmax(low, axis=0).to(tl.int32)
        rival = tl.max(tl.where(k == label[None, :], -1.0, high), axis=0)
        settled = best > rival * (1 + NEAR)
        if DROPS:
            total_low = tl.sum(tl.where(k < K, low, 0.0), axis=0)
            total_high = tl.sum(tl.where(k < K, high, 0.0), axis=0)
            settled = settled & (best > threshold * total_high * (1 + NEAR))
            settled = settled | (tl.max(high, axis=0) * (1 + NEAR) < threshold * total_low)
            label = tl.where(best < threshold * total_low, 255, label)
        unsettled = tl.sum(tl.where(inside & ~settled, 1, 0), axis=0)
    tl.store(labels + y * width + x, label.to(tl.uint8), mask=inside)


def label_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Size,
    image_size: Size,
    output_size: Size,
    threshold: float = 0.0,
) -> Tensor:
    """Compute a label map; see `clouds.modeling.inference.labels.label_map`."""
    factor_y, factor_x = upsampling(mask_logits, canvas)
    device, (_, h, w), (height, width) = mask_logits.device, mask_logits.shape, output_size
    order, weights, rest = in_steps(class_probabilities(class_logits))
    labels = torch.empty(output_size, dtype=torch.uint8, device=device)
    rows, columns = (bilinear_samples(*sizes, device) for sizes in zip(image_size, output_size, strict=True))
    block_x = max(16, min(SEGMENT, SCORES // len(weights), triton.next_power_of_2(width)))
    with torch.cuda.device_of(labels):  # Triton launches on the current device
        _label[(triton.cdiv(width, block_x), height)](
            labels,
            mask_logits.contiguous(),
            order,
            weights,
            rest,
            *rows,
            *columns,
            threshold,
            h,
            w,
            width,
            len(rest) - 1,
            factor_y=factor_y,
            factor_x=factor_x,
            K=class_logits.shape[1] - 1,
            BLOCK_K=len(weights),
            BLOCK_Q=QUERIES,
            BLOCK_X=block_x,
            RESIZED=image_size != output_size,
            DROPS=threshold > 0,
            NEAR=TIE,
        )
    return labels


def in_steps(probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort queries by descending highest class probability and pad them to steps of `QUERIES`.

    Args:
        probabilities: (K, Q) class probabilities.

    Returns:
        `order`, `weights` and `rest`, as the kernel takes them. Classes are padded to a power of 2.
    """
    (classes, queries), device = probabilities.shape, probabilities.device
    steps, block_k = triton.cdiv(queries, QUERIES), max(16, triton.next_power_of_2(classes))
    order = torch.zeros(steps * QUERIES, dtype=torch.int64, device=device)
    order[:queries] = probabilities.amax(dim=0).argsort(descending=True)
    weights = torch.zeros(block_k, steps * QUERIES, device=device)
    weights[:classes, :queries] = probabilities[:, order[:queries]]
    rest = torch.zeros(steps + 1, block_k, device=device)
    rest[:-1] = weights.view(block_k, steps, QUERIES).sum(dim=2).flip(1).cumsum(dim=1).flip(1).T
    return order, weights, rest
