"""Multi-scale deformable attention on a CPU: each output row is a weighted sum of table rows, an embedding bag.

The levels of an image lie in one table of cells, with zeros around each level, so that samples outside read zeros:

    0 0 0 0 0
    0 a b c d        All lines have the length of the widest level and one cell more: the zero to the left of a line
    0 e f g h        is also the zero to the right of the line above. So the corners of a sample have the same
    0 0 0 0 0        distances at all levels, and the index of the upper left corner serves all four: the others are
    0 i j 0 0        read from views of the table that begin one cell, one line, or both, later.
    0 0 0 0 0
    0

The backward pass computes the index again, so that only the inputs are saved. The gradient of the table is an embedding
bag, too: of rows of the output's gradient, in the order of the cells. Blocks of queries keep temporaries in the cache.
No result depends on the number of threads.

Letters: B images, S source pixels of all levels, M heads, D channels of a head, Q queries, L levels, P points,
T = M * L * P samples of a query.
"""

import warnings
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.modeling.pixel_decoder.ops.custom_op import differentiable_op

BLOCK = 32768  # samples of one block; 8,192 and 131,072 are slower


class Samples(NamedTuple):
    """Samples of a block of queries.

    Attributes:
        row: (Q, T) int32, table row of the upper left corner.
        x: (Q, T), distance from the column of this corner, limited to [0, 1].
        y: (Q, T), distance from the line of this corner, limited to [0, 1].
        distance: (Q, T * 2), both before the limit, alternating; in [0, 1) where the output depends on the location.
    """

    row: Tensor
    x: Tensor
    y: Tensor
    distance: Tensor


class Layout:
    """Places of the pixels of all levels in the table of an image.

    Attributes:
        bag: L * P, samples of a query and head.
        shifts: distances of a sample's four corners from its upper left corner, in table rows.
        sides: (T * 2,) width and height of each sample's level, alternating.
        first: (T,) int32, table row of each sample's level and head.
    """

    def __init__(self, shapes: Sequence[int], heads: int, points: int, dtype: torch.dtype) -> None:
        """`shapes` are the heights and widths of the levels, flattened; `dtype` is that of the table."""
        self.shapes = list(zip(shapes[::2], shapes[1::2], strict=True))
        self.heads = heads
        self.pitch = 1 + max(shapes[1::2])
        *self.starts, end = accumulate(((height + 1) * self.pitch for height, _ in self.shapes), initial=0)
        self.cells = end + self.pitch + 1
        self.shifts = [cells * heads for cells in (0, 1, self.pitch, self.pitch + 1)]
        self.bag = len(self.shapes) * points
        sides = torch.tensor([(width, height) for height, width in self.shapes], dtype=dtype)
        self.sides = sides.repeat_interleave(points, 0).repeat(heads, 1).flatten()
        starts = torch.tensor(self.starts, dtype=torch.int32).repeat_interleave(points)
        self.first = (starts * heads + torch.arange(heads, dtype=torch.int32)[:, None]).flatten()

    def levels(self, table: Tensor, pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield views (h, w, M, D) of each level, in `table` (cells * M, D) and in `pixels` (S, M, D)."""
        cells = table.unflatten(0, (self.cells, self.heads))
        levels = pixels.split([height * width for height, width in self.shapes])
        for (height, width), start, level in zip(self.shapes, self.starts, levels, strict=True):
            lines = cells[start + self.pitch :][: height * self.pitch].unflatten(0, (height, self.pitch))
            yield lines[:, 1 : 1 + width], level.unflatten(0, (height, width))

    def table(self, value: Tensor) -> Tensor:
        """Copy `value` (S, M, D) into a table (cells * M, D)."""
        table = self.sides.new_zeros(self.cells * self.heads, value.shape[2])
        for cells, level in self.levels(table, value):
            cells.copy_(level)
        return table

    def blocks(self, queries: int) -> Iterator[slice]:
        """Yield slices of the queries, each with `BLOCK` samples or fewer."""
        step = max(1, BLOCK // len(self.first))
        return (slice(start, start + step) for start in range(0, queries, step))

    def locate(self, locations: Tensor) -> Samples:
        """Find the samples at `locations` (Q, M, L, P, 2)."""
        at = (locations.flatten(1) * self.sides).add_(0.5)  # in cells; 0 is the zero above or to the left of a level
        # NaN must not become an index. The result is NaN nevertheless, because the distance is.
        corner = torch.minimum(at.floor().clamp_(min=0), self.sides).nan_to_num_()
        distance = at.sub_(corner)
        x, y = distance.clamp(0, 1).unflatten(1, (-1, 2)).unbind(2)
        column, line = corner.to(torch.int32).unflatten(1, (-1, 2)).unbind(2)
        row = torch.add(column, line, alpha=self.pitch).mul_(self.heads).add_(self.first)
        return Samples(row, x.contiguous(), y.contiguous(), distance)


def corner_weights(weights: Tensor, samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Multiply `weights` (Q, T) by the bilinear weights of the four corners of each sample."""
    right, below = weights * samples.x, weights * samples.y
    both = right * samples.y
    return (weights - right).sub_(below).add_(both), right.sub_(both), below.sub_(both), both


def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the output (B, Q, M * D); the arguments are those of the operator, see `differentiable_op`."""
    layout = Layout(shapes, value.shape[2], locations.shape[4], locations.dtype)
    output = value.new_empty(*locations.shape[:3], value.shape[3])
    for image, pixels in enumerate(value):
        table = layout.table(pixels)
        for block in layout.blocks(locations.shape[1]):
            samples = layout.locate(locations[image, block])
            index = samples.row.view(-1, layout.bag)
            factors = corner_weights(weights[image, block].flatten(1), samples)
            bags = [
                F.embedding_bag(index, table[shift:], mode="sum", per_sample_weights=factor.view_as(index))
                for shift, factor in zip(layout.shifts, factors, strict=True)
            ]
            output[image, block] = reduce(Tensor.add_, bags).unflatten(0, (-1, layout.heads))
    return output.flatten(2)


def backward(
    grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `value`, `locations` and `weights` from that of the output, `grad` (B, Q, M * D)."""
    layout = Layout(shapes, value.shape[2], locations.shape[4], locations.dtype)
    by_value, by_locations, by_weights = (x.new_empty(x.shape) for x in (value, locations, weights))
    queries = locations.shape[1]
    for image, pixels in enumerate(value):
        table = layout.table(pixels)
        rows = grad[image].to(table.dtype).contiguous().view(queries * layout.heads, -1)
        index = layout.first.new_empty(queries, len(layout.first))
        factors = table.new_empty(len(layout.shifts), *index.shape)
        for block in layout.blocks(queries):
            own = weights[image, block].flatten(1)
            samples = layout.locate(locations[image, block])
            index[block] = samples.row
            for factor, part in zip(factors, corner_weights(own, samples), strict=True):
                factor[block] = part
            upper_left, upper_right, lower_left, lower_right = corner_products(
                rows.unflatten(0, (queries, -1))[block].flatten(0, 1), table, samples.row, layout
            )
            upper, left = upper_right.sub_(upper_left), lower_left.sub_(upper_left)
            twist = lower_right.sub_(upper_left).sub_(upper).sub_(left)  # of the bilinear surface
            along_x, along_y = torch.addcmul(upper, twist, samples.y), torch.addcmul(left, twist, samples.x)
            product = upper_left.addcmul_(upper, samples.x).addcmul_(along_y, samples.y)
            slopes = torch.stack((along_x.mul_(own), along_y.mul_(own)), dim=-1).flatten(1).mul_(layout.sides)
            slopes.mul_((samples.distance >= 0).logical_and_(samples.distance < 1))
            by_weights[image, block] = product.view_as(weights[image, block])
            by_locations[image, block] = slopes.view_as(locations[image, block])
        for cells, level in layout.levels(table_gradient(rows, index, factors, layout), by_value[image]):
            level.copy_(cells)
    return by_value, by_locations, by_weights


def corner_products(rows: Tensor, table: Tensor, index: Tensor, layout: Layout) -> list[Tensor]:
    """Multiply each row of the output's gradient (Q * M, D) by the table rows that its output is a sum of.

    Returns:
        For each corner, the products (Q, T).
    """
    starts = torch.arange(0, index.numel() + 1, layout.bag, dtype=index.dtype)
    zeros = table.new_zeros(index.numel())
    products = []
    for shift in layout.shifts:
        corner_table = table[shift:]
        size = (len(rows), len(corner_table))
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # "sparse support is in beta state"
            entries = torch.sparse_csr_tensor(starts, index.flatten(), zeros, size, check_invariants=False)
        products.append(torch.sparse.sampled_addmm(entries, rows, corner_table.T, beta=0).values().view_as(index))
    return products


def table_gradient(rows: Tensor, index: Tensor, factors: Tensor, layout: Layout) -> Tensor:
    """Add up the gradient of the table (cells * M, D).

    Args:
        rows: (Q * M, D), the output's gradient.
        index: (Q, T), table row of the upper left corner of each sample.
        factors: (4, Q, T), weights of the corners.
        layout: places of the pixels.
    """
    total = rows.new_zeros(layout.cells * layout.heads, rows.shape[1])
    ordered, order = index.flatten().sort(stable=True)
    corner_rows = len(total) - layout.shifts[-1]
    starts = torch.searchsorted(ordered, torch.arange(corner_rows, dtype=ordered.dtype))
    sources = order // layout.bag
    for shift, factor in zip(layout.shifts, factors, strict=True):
        weights = factor.flatten().index_select(0, order)
        sums = F.embedding_bag(sources, rows, starts, mode="sum", per_sample_weights=weights)
        total[shift:][:corner_rows] += sums
    return total


ms_deform_attn = differentiable_op("ms_deform_attn_embedding_bag", forward, backward)
