"""Label maps on a CPU, exact, at a fraction of the work.

A cell is the area between the centers of 2 x 2 neighboring mask logits: f x f canvas pixels, whose logits are convex
combinations of the four at its corners. The lowest and the highest of these four bound a query's probability in the
cell, and with it the score of each class. Where the lowest score of a class is above the highest score of all others,
it wins in the whole cell, which costs two products instead of f x f. Only in the other cells, mostly at the borders of
masks, the scores are computed. Nothing is approximated.

Outside the mask logits, the nearest one continues, as in `F.interpolate`. So there are (h + 1) x (w + 1) cells, and the
outer ones lie partly outside the canvas.

Letters: Q queries, K classes, h x w mask logits, H x W canvas, f x f canvas pixels of a cell (its sides may differ), N
positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clouds.data.classes import IGNORE_LABEL
from clouds.modeling.inference.sampling import Samples, bilinear_samples
from clouds.modeling.inference.scores import TIE, best_labels, class_probabilities, upsampling
from clouds.utils.sizes import Size

ROWS = 16
"""Rows of cells, or of the result, that are computed at once."""
NUMBERS = 1 << 19
"""Probabilities that are computed at once, 2 MB: what stays in a processor's cache."""
# Marks pixels between different labels. A pixel of the class with this label is computed again.
_MIXED = IGNORE_LABEL - 1


def label_map(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Size,
    image_size: Size,
    output_size: Size,
    threshold: float = 0.0,
) -> Tensor:
    """Compute a label map; see `clouds.modeling.inference.labels.label_map`."""
    grid = _Grid.of(class_probabilities(class_logits).contiguous(), mask_logits, canvas, image_size)
    labels = _canvas_labels(grid, threshold)[: image_size[0], : image_size[1]]
    return labels.contiguous() if image_size == output_size else _resized(labels, grid, output_size, threshold)


@dataclass(frozen=True)
class _Grid:
    """The cells that cover an image.

    Attributes:
        weights: (K, Q) class probabilities.
        mask_logits: (Q, h, w).
        factors: sides f of a cell in canvas pixels.
        offset: distance in canvas pixels from the upper left corner of the first cell to that of the canvas.
        size: number of rows and columns of cells.
        corners: (f * f, 4), the weights of the upper left, upper right, lower left and lower right corner.
    """

    weights: Tensor
    mask_logits: Tensor
    factors: Size
    offset: Size
    size: Size
    corners: Tensor

    @classmethod
    def of(cls, weights: Tensor, mask_logits: Tensor, canvas: Size, image_size: Size) -> "_Grid":
        """Return the cells of an image in the upper left corner of the canvas."""
        factors = upsampling(mask_logits, canvas)
        offset = (factors[0] - factors[0] // 2, factors[1] - factors[1] // 2)
        size = (-(-(image_size[0] + offset[0]) // factors[0]), -(-(image_size[1] + offset[1]) // factors[1]))
        sides = []
        for factor in factors:
            # The first pixel of a cell lies at its upper left center if f is odd, and half a pixel further if even.
            right = (torch.arange(factor) + (0.5 if factor % 2 == 0 else 0.0)) / factor
            sides.append(torch.stack([1 - right, right], dim=1))
        return cls(weights, mask_logits, factors, offset, size, torch.kron(*sides))

    def strip(self, top: int, bottom: int) -> Tensor:
        """Return (Q, bottom - top + 1, columns + 1), the logits at the corners of the cells in some rows of cells."""
        (h, w), columns = self.mask_logits.shape[1:], self.size[1]
        rows = torch.arange(top - 1, bottom).clamp_(0, h - 1)
        logits = self.mask_logits.index_select(1, rows)[:, :, :columns]
        return F.pad(logits, (1, max(columns - w, 0), 0, 0), mode="replicate")

    def scores(self, strip: Tensor, cells: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Compute the scores in some cells of a strip.

        Args:
            strip: see `strip`.
            cells: (N,) int64 positions, row by row.

        Yields:
            A part of these cells, and the scores of its n cells, (K, f * f * n) with the cell last.
        """
        columns = self.size[1]
        logits, width = strip.flatten(1), columns + 1
        upper_left = cells // columns * width + cells % columns
        step = max(1, NUMBERS // (len(logits) * len(self.corners)))
        for start in range(0, len(cells), step):
            part = slice(start, start + step)
            corners = [logits.index_select(1, upper_left[part] + away) for away in (0, 1, width, width + 1)]
            masks = torch.matmul(self.corners, torch.stack(corners, dim=1)).sigmoid_()  # (Q, f * f, n)
            yield part, self.weights @ masks.flatten(1)


def _canvas_labels(grid: _Grid, threshold: float) -> Tensor:
    """Return the labels (rows, columns) uint8 of the canvas pixels in all cells, without those above and left of it."""
    (rows, columns), (fy, fx) = grid.size, grid.factors
    result = torch.empty(rows * fy, columns * fx, dtype=torch.uint8)
    for top in range(0, rows, ROWS):
        bottom = min(top + ROWS, rows)
        strip = grid.strip(top, bottom)
        labels, decided = _decide(*_bounds(grid, strip), threshold)
        labels = labels[:, None].repeat(1, fy * fx)
        cells = (~decided).nonzero()[:, 0]
        for part, scores in grid.scores(strip, cells):
            labels[cells[part]] = best_labels(scores, threshold).view(fy * fx, -1).T
        blocks = labels.view(bottom - top, columns, fy, fx).transpose(1, 2)
        result[top * fy : bottom * fy] = blocks.reshape(-1, columns * fx)
    return result[grid.offset[0] :, grid.offset[1] :]


def _bounds(grid: _Grid, strip: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest score (K, N) of each class in the N cells of a strip."""
    masks = strip.sigmoid()
    bounds = []
    for choose in (torch.minimum, torch.maximum):
        pairs = choose(masks[:, :, :-1], masks[:, :, 1:])
        bounds.append(grid.weights @ choose(pairs[:, :-1], pairs[:, 1:]).flatten(1))
    return bounds[0], bounds[1]


def _decide(low: Tensor, high: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Find the label of each cell that has the same one everywhere.

    Args:
        low: (K, N), the lowest score of each class.
        high: (K, N), the highest score of each class.
        threshold: see `label_map`.

    Returns:
        (N,) uint8 labels, and (N,) bool, whether the label holds in the whole cell.
    """
    best, classes = low.max(dim=0)
    labels = classes.to(torch.uint8)
    rivals = high.scatter(0, classes[None], -1.0).amax(dim=0)
    decided = best > rivals * (1 + TIE)
    if threshold > 0:
        decided &= best > threshold * high.sum(dim=0) * (1 + TIE)
        dropped = high.amax(dim=0) * (1 + TIE) < threshold * low.sum(dim=0)
        labels.masked_fill_(dropped, IGNORE_LABEL)
        decided |= dropped
    return labels, decided


def _resized(labels: Tensor, grid: _Grid, output_size: Size, threshold: float) -> Tensor:
    """Compute the label map at another size.

    A pixel of the result combines the scores of 2 x 2 canvas pixels. If these four have the same label, it has this
    label, too. Only between different labels, the scores are computed.

    Args:
        labels: (rows, columns) uint8, label map of the image on the canvas.
        grid: cells of the image.
        output_size: size of the result.
        threshold: see `label_map`.
    """
    y, x = (bilinear_samples(*sizes) for sizes in zip(labels.shape, output_size, strict=True))
    result = _mark_mixed(labels)[y.lower][:, x.lower]
    for top in range(0, output_size[0], ROWS):
        strip = result[top : top + ROWS]
        rows, columns = (strip == _MIXED).nonzero().unbind(dim=1)
        if len(rows):
            scores = _combined_scores(grid, _take(y, rows + top), _take(x, columns))
            strip[rows, columns] = best_labels(scores, threshold)
    return result


def _mark_mixed(labels: Tensor) -> Tensor:
    """Replace each label that differs from the one to the right, the one below, or the one between these two."""
    mixed = torch.zeros_like(labels, dtype=torch.bool)
    mixed[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    mixed[:-1] |= labels[:-1] != labels[1:]
    mixed[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return labels.masked_fill(mixed, _MIXED)


def _take(samples: Samples, positions: Tensor) -> Samples:
    return Samples(*(each[positions] for each in samples))


def _combined_scores(grid: _Grid, y: Samples, x: Samples) -> Tensor:
    """Return the scores (K, N) of pixels that combine canvas pixels.

    Args:
        grid: cells of the image.
        y: N canvas rows in a few rows of cells.
        x: N canvas columns.
    """
    (fy, fx), (_, columns) = grid.factors, grid.size
    down, across = torch.stack([y.lower, y.upper]) + grid.offset[0], torch.stack([x.lower, x.upper]) + grid.offset[1]
    top, bottom = int(down.min()) // fy, int(down.max()) // fy + 1
    cell = (down // fy - top)[:, None] * columns + (across // fx)  # (2, 2, N)
    inside = (down % fy)[:, None] * fx + across % fx
    needed = torch.zeros((bottom - top) * columns, dtype=torch.bool)
    needed[cell] = True
    cells = needed.nonzero()[:, 0]
    parts = [scores.unflatten(1, (fy * fx, -1)) for _, scores in grid.scores(grid.strip(top, bottom), cells)]
    scores = torch.cat(parts, dim=2).flatten(1)  # (K, f * f * cells)
    position = (inside * len(cells) + needed.cumsum(0)[cell] - 1).flatten(0, 1)
    weights = torch.stack([1 - y.weight, y.weight])[:, None] * torch.stack([1 - x.weight, x.weight])
    combined = torch.zeros(len(scores), len(y.lower))
    for at, weight in zip(position, weights.flatten(0, 1), strict=True):
        combined += scores.index_select(1, at) * weight
    return combined
