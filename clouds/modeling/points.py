"""Points at which masks are compared: where they come from, and the values there (PointRend, CVPR 2020).

Letters: L decoder outputs, B images, M matched pairs of the batch, P points, C candidates, U uncertain points, R maps.
A point is (x, y) in [-1, 1], from the left or upper edge of a map to the other edge, as `grid_sample` takes it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.utils.transfer import upload

Uniform = Callable[[int, int], Tensor]
"""Source of random numbers: (image, n) -> (n, 2) float in [0, 1), the next n pairs of the image's stream.

Each image of a batch has its own stream, so that its points do not depend on the other images.
"""


def uniform_points(image: int, count: int) -> Tensor:
    """Draw (count, 2) numbers from torch's global generator: the source for images without a seed."""
    return torch.rand(count, 2)


def seeded_points(seeds: Sequence[int], device: torch.device) -> Uniform:
    """Build a source with one generator per image.

    The numbers of an image depend neither on the other images nor on how the batch is split among processes. They do
    depend on the type of the device, on which they are drawn.

    Args:
        seeds: one seed per image, in [0, 2**63).
        device: device of the predictions.
    """
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(image: int, count: int) -> Tensor:
        return torch.rand(count, 2, generator=generators[image], device=device)

    return draw


class Points(NamedTuple):
    """Random points of L outputs for a batch.

    Attributes:
        matching: (L, B, P, 2) float, at which all masks of an image are compared for the matching.
        candidates: (L * M, C, 2) float, among which the uncertain points of a pair are chosen.
        random: (L * M, P - U, 2) float, the other points of a pair.
    """

    matching: Tensor
    candidates: Tensor
    random: Tensor


def draw_points(
    uniform: Uniform, layers: int, pairs: Sequence[int], *, matching: int, candidates: int, random: int, like: Tensor
) -> Points:
    """Draw the points of all outputs before the matching, whose number of pairs is known, in one call per image.

    An image's stream has for each output the matching points, then the candidates of all pairs of the image, then
    their random points.

    Args:
        uniform: source of random numbers.
        layers: L, number of outputs.
        pairs: number of matched pairs of each image.
        matching: number of points for the matching.
        candidates: C, number of candidates of a pair.
        random: number of random points of a pair.
        like: tensor with the device and dtype of the points.
    """
    rows = layers * sum(pairs)
    totals = (layers * len(pairs) * matching, rows * candidates, rows * random)
    buffer = like.new_empty(sum(totals), 2)
    parts = [part.unflatten(0, (layers, -1)) for part in buffer.split(totals)]
    sizes = [(matching, count * candidates, count * random) for count in pairs]
    places = [part.split(lengths, dim=1) for part, lengths in zip(parts, zip(*sizes, strict=True), strict=True)]
    for image, size in enumerate(sizes):
        # The numbers of an image are large. They are freed before those of the next are drawn.
        numbers = upload(uniform(image, layers * sum(size)), like.device).to(like.dtype)
        torch.split_with_sizes_copy(
            numbers.view(layers, sum(size), 2), size, dim=1, out=[place[image] for place in places]
        )
        del numbers
    buffer.mul_(2).sub_(1)  # from [0, 1) to [-1, 1)
    return Points(
        matching=parts[0].view(layers, len(pairs), matching, 2),
        candidates=parts[1].view(rows, candidates, 2),
        random=parts[2].view(rows, random, 2),
    )


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps bilinearly at points, with zeros outside.

    Args:
        maps: (R, D, H, W) float.
        points: (R, P, 2) float, points that D maps share.

    Returns:
        (R, D, P) float.
    """
    return F.grid_sample(maps, points[:, None], mode="bilinear", align_corners=False)[:, :, 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Choose the candidates where masks are least certain (PointRend, section 3.1).

    Args:
        logits: (R, h, w) float mask logits.
        candidates: (R, C, 2) float.
        count: U, number of points, at most C.

    Returns:
        (R, U, 2) float, in any order.
    """
    certainty = sample_points(logits[:, None], candidates)[:, 0].abs_()
    # A point is two floats, which are copied together as one complex number.
    chosen = torch.view_as_complex(candidates).gather(1, smallest(certainty, count))
    return torch.view_as_real(chosen)


def smallest(values: Tensor, count: int) -> Tensor:
    """Return the indices (R, count) int64 of the smallest values in each row of (R, C), in any order."""
    if values.device.type == "cpu":  # NumPy selects with vector instructions; one row at a time needs less memory.
        indices = np.empty((len(values), count), dtype=np.int64)
        for chosen, row in zip(indices, values.numpy(), strict=True):
            chosen[:] = np.argpartition(row, count - 1)[:count]
        return torch.from_numpy(indices)
    return values.topk(count, dim=1, largest=False, sorted=False).indices
